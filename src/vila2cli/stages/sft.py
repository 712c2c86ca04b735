"""`vila2 sft`: instruction tuning of a pretrained checkpoint."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vila2cli.settings.recipe import Recipe
from vila2cli.shards import open_source
from vila2cli.text.compose import Composition, conversations

if TYPE_CHECKING:
    from vila2cli.train.job import TrainSummary


def sft(
    recipe: Recipe, *, model: str, shards: list[str] | None, out: Path, round: int | None
) -> "TrainSummary":
    """Train on conversations with text-only instructions blended in (VILA section 4; VILA^2 section 3)."""
    from vila2cli.model.checkpoint import resolve_model, weights_sha256
    from vila2cli.train.job import DataSource, Phase, load_checkpoint, train_stage

    named = {"sft": shards or recipe.data.sft, "text": recipe.data.text}
    compose = partial(conversations, composition=Composition())
    sources = [
        DataSource(name, open_source(specs), compose, may_lack_images=name == "text")
        for name, specs in named.items()
        if specs
    ]
    loaded, processor = load_checkpoint(model)
    return train_stage(
        "sft",
        loaded,
        processor,
        [Phase("sft", recipe.sft, sources)],
        recipe=recipe,
        lineage={
            "round": round,
            "parent": {"path": str(model), "sha256": weights_sha256(resolve_model(model))},
            "settings": recipe.sft.deciding(),
            "dtype": recipe.base.dtype,
            "seed": recipe.seed,
        },
        out=out,
    )
