"""`vila2 pretrain`: from the bases, with a new projector, to a pretrained checkpoint."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from vila2cli.run.folder import RunFolder
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import open_source
from vila2cli.text.compose import Composition, composition_of, conversations

if TYPE_CHECKING:
    from vila2cli.train.job import TrainSummary


def pretrain(
    recipe: Recipe,
    *,
    shards: list[str] | None,
    out: Path,
    round: int | None,
    base: str | None = None,
    mixed: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> "TrainSummary":
    """Align the projector, then train projector and LLM (VILA^2 section 3, stages 1 and 2).

    Every round starts from the base tower and LLM of the recipe, never from an earlier round
    (section 2.1: "retrained from scratch"). `shards` are captioned images, base shards or layers over
    them; interleaved documents from the recipe are added in the second phase, and so are `mixed`, shards of
    conversations by name.
    """
    from vila2cli.model.build import build, resolve_base
    from vila2cli.model.checkpoint import weights_sha256
    from vila2cli.model.scratch import refuse_trained
    from vila2cli.train.job import DataSource, Phase, train_stage

    bases = {name: resolve_base(getattr(recipe.base, name)) for name in ("vision_tower", "llm")}
    run = RunFolder(recipe.run_dir)
    in_run = out.resolve().is_relative_to(run.root.resolve()) and out != run.stage("pretrain", 0)
    refuse_trained(bases, run, is_later_round=bool(round) or in_run)
    pairs = open_source(shards or recipe.data.pretrain, base=base)
    settings = recipe.pretrain
    compose = partial(
        conversations, composition=composition_of(settings.main, recipe.seed, answers=settings.main.answers)
    )
    sources = [DataSource("pretrain", pairs, compose)]
    if recipe.data.interleaved:
        documents = open_source(recipe.data.interleaved)
        sources.append(
            DataSource(
                "interleaved",
                documents,
                partial(conversations, composition=Composition()),
                may_lack_images=True,
            )
        )
    for name, specs in mixed.items():
        talks = open_source(specs)
        sources.append(DataSource(name, talks, partial(conversations, composition=Composition())))
    compose = partial(
        conversations, composition=composition_of(settings.align, recipe.seed), with_answers=False
    )
    align = [DataSource("pretrain", pairs, compose)]
    model, processor = build(recipe.base, seed=recipe.seed)
    return train_stage(
        "pretrain",
        model,
        processor,
        [Phase("align", settings.align, align), Phase("main", settings.main, sources)],
        recipe=recipe,
        lineage={
            "round": round,
            "bases": {name: {"path": str(f), "sha256": weights_sha256(f)} for name, f in bases.items()},
            "base_settings": recipe.base.deciding(),
            "layers": [layer.name for layer in pairs.layers],
            "settings": settings.deciding(),
            "seed": recipe.seed,
        },
        out=out,
    )
