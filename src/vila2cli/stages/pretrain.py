"""`vila2 pretrain`: from the bases, with a new projector, or from a model to a pretrained checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

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
    (section 2.1: "retrained from scratch"), or with `pretrain.model` from that one. `shards` are captioned
    images, base shards or layers over them; interleaved documents from the recipe are added in the second
    phase, and so are `mixed`, shards of conversations by name.
    """
    pairs = open_source(shards or recipe.data.pretrain, base=base)
    others = {"interleaved": recipe.data.interleaved, **mixed}
    documents = {name: open_source(specs) for name, specs in others.items() if specs}

    from vila2cli.model.build import build
    from vila2cli.train.job import Phase, load_checkpoint, train_stage

    settings, run = recipe.pretrain, RunFolder(recipe.run_dir)
    first = run.stage("pretrain", 0)
    in_run = out.resolve().is_relative_to(run.root.resolve())
    is_later_round = in_run and out != first
    if settings.model:
        origin = _continued(recipe, run if in_run else None, is_later_round=is_later_round)
    else:
        origin = _from_scratch(recipe, run, is_later_round=bool(round) or is_later_round)
    check_trained(recipe, {layer.name for layer in pairs.layers})
    if settings.model:
        model, processor = load_checkpoint(settings.model)
    else:
        model, processor = build(recipe.base, seed=recipe.seed)
    phases = [Phase("main", settings.main, list(_main_sources(recipe, pairs, documents)))]
    if "align" in settings.phases:
        captions = _captions(pairs, composition_of(settings.align, recipe.seed), with_answers=False)
        shared = run.aligned / digest(_weights(origin)) if in_run else None
        phases.insert(0, Phase("align", settings.align, [captions], shared=shared))
    return train_stage(
        "pretrain",
        model,
        processor,
        phases,
        recipe=recipe,
        lineage={
            "round": round,
            **origin,
            "layers": [layer.name for layer in pairs.layers],
            "settings": settings.deciding(),
            "seed": recipe.seed,
        },
        out=out,
    )


def _from_scratch(recipe: Recipe, run: RunFolder, *, is_later_round: bool) -> dict[str, Any]:
    """What is recorded of the bases; raises RecipeError where one was trained."""
    from vila2cli.model.build import resolve_base
    from vila2cli.model.checkpoint import weights_sha256
    from vila2cli.model.scratch import refuse_trained

    bases = {name: resolve_base(getattr(recipe.base, name)) for name in ("vision_tower", "llm")}
    refuse_trained(bases, run, is_later_round=is_later_round)
    return {
        "bases": {name: {"path": str(f), "sha256": weights_sha256(f)} for name, f in bases.items()},
        "base_settings": recipe.base.deciding(),
    }


def _continued(recipe: Recipe, run: RunFolder | None, *, is_later_round: bool) -> dict[str, Any]:
    """What is recorded of the model; raises RecipeError for a round that would start from another one."""
    from vila2cli.model.checkpoint import model_name, resolve_model, weights_sha256
    from vila2cli.model.scratch import refuse_own

    folder = resolve_model(recipe.pretrain.model)
    if run is not None:
        refuse_own(folder, run, is_later_round=is_later_round)
    parent = {"path": model_name(recipe.pretrain.model), "sha256": weights_sha256(folder)}
    return {"parent": parent, "dtype": recipe.base.dtype}


def _weights(origin: Mapping[str, Any]) -> dict[str, str]:
    """The weights that a training starts from, by part."""
    parts = origin.get("bases") or {"model": origin["parent"]}
    return {name: part["sha256"] for name, part in parts.items()}


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
