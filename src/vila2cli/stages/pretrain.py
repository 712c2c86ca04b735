"""`vila2 pretrain`: from the bases, with a new projector, to a pretrained checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from vila2cli.captioning.layers import check_trained
from vila2cli.run.folder import RunFolder, digest
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import Source, open_source
from vila2cli.text.choose import Choice
from vila2cli.text.compose import Composition, alternatives, composition_of, conversations

if TYPE_CHECKING:
    from vila2cli.train.job import DataSource, TrainSummary


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
    pairs = open_source(shards or recipe.data.pretrain, base=base)
    others = {"interleaved": recipe.data.interleaved, **mixed}
    documents = {name: open_source(specs) for name, specs in others.items() if specs}

    from vila2cli.model.build import build, resolve_base
    from vila2cli.model.checkpoint import weights_sha256
    from vila2cli.model.scratch import refuse_trained
    from vila2cli.train.job import Phase, train_stage

    bases = {name: resolve_base(getattr(recipe.base, name)) for name in ("vision_tower", "llm")}
    base_digests = {name: weights_sha256(folder) for name, folder in bases.items()}
    run = RunFolder(recipe.run_dir)
    in_run = out.resolve().is_relative_to(run.root.resolve()) and out != run.stage("pretrain", 0)
    refuse_trained(bases, run, is_later_round=bool(round) or in_run)
    check_trained(recipe, {layer.name for layer in pairs.layers})
    settings = recipe.pretrain
    model, processor = build(recipe.base, seed=recipe.seed)
    return train_stage(
        "pretrain",
        model,
        processor,
        [
            Phase(
                "align",
                settings.align,
                [_captions(pairs, composition_of(settings.align, recipe.seed), with_answers=False)],
                shared=run.aligned / digest(base_digests)
                if in_run or out == run.stage("pretrain", 0)
                else None,
            ),
            Phase("main", settings.main, list(_main_sources(recipe, pairs, documents))),
        ],
        recipe=recipe,
        lineage={
            "round": round,
            "bases": {name: {"path": str(f), "sha256": base_digests[name]} for name, f in bases.items()},
            "base_settings": recipe.base.deciding(),
            "layers": [layer.name for layer in pairs.layers],
            "settings": settings.deciding(),
            "seed": recipe.seed,
        },
        out=out,
    )


def _main_sources(recipe: Recipe, pairs: Source, others: Mapping[str, Source]) -> Iterator["DataSource"]:
    """What the second phase trains on: captioned images, interleaved documents and conversations."""
    from vila2cli.train.job import DataSource

    main, compose = recipe.pretrain.main, partial(conversations, composition=Composition())
    yield _captions(pairs, composition_of(main, recipe.seed, answers=main.answers))
    for name, source in others.items():
        yield DataSource(name, source, compose, may_lack_images=name == "interleaved")


def _captions(pairs: Source, composition: Composition, *, with_answers: bool = True) -> "DataSource":
    from vila2cli.train.choosing import Choosing
    from vila2cli.train.job import DataSource

    how = {"composition": composition, "with_answers": with_answers}
    choosing = None
    if composition.choose:
        choice = Choice(composition.choose, composition.seed)
        choosing = Choosing(choice, partial(alternatives, **how))  # type: ignore[arg-type]
    return DataSource("pretrain", pairs, partial(conversations, **how), choosing=choosing)  # type: ignore[arg-type]
