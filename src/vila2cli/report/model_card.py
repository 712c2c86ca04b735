"""The model card of a checkpoint: its `vila2.json`, those of its parents, the evaluation of its weights."""

import re
from pathlib import Path
from typing import Any

from vila2cli import __version__
from vila2cli.model.checkpoint import weights_sha256
from vila2cli.report.bookkeeping import data_sources, parents_of
from vila2cli.report.data_card import prompt_rows
from vila2cli.report.figures import figure_text
from vila2cli.report.json_reader import JsonReader, real, table_of, tables_of, whole
from vila2cli.report.markdown import card_name, damaged, document, plain, reject_lines, section, table
from vila2cli.report.merged_card import DRAWN_HEAD, drawn_rows
from vila2cli.report.own_recipe import recipe_near
from vila2cli.report.results import RoundResult, read_result
from vila2cli.report.run_folder import layer_stats
from vila2cli.report.wording import compact, dollars, duration, number
from vila2cli.run.cost import Cost
from vila2cli.score.stats import FEW_IMAGES
from vila2cli.settings.recipe import Recipe
from vila2cli.shards.places import is_there, redacted

MAX_PARENTS = 8
STOCK_RULE = "311 of 360 captions of fine print"
"""What CATTY's checkpoints say otherwise in the tiles of their class: benchmarks/results/tiles.json."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
Lineage = list[tuple[Path, dict[str, Any]]]
"""Checkpoints with their vila2.json, newest first."""


def model_card(folder: Path, recipe: Recipe) -> str:
    """The card of a checkpoint that a training stage wrote."""
    from huggingface_hub import EvalResult, ModelCardData

    reader = JsonReader(folder)
    chain = _lineage(folder, reader)
    sha256 = weights_sha256(folder) if any(folder.glob("*.safetensors")) else ""
    result = _result(folder, sha256, reader)
    bases = [place.partition("@")[0] for place, _ in parents_of(chain[-1][1])]  # a hub id without its commit
    evals = [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type=task.name,
            dataset_name=task.name,
            metric_type=metric,
            metric_value=figure.value,
            metric_args={"low": figure.low, "high": figure.high},
        )
        for task in (result.tasks.values() if result else ())
        for metric, figure in task.metrics.items()
    ]
    name = card_name(folder)
    head = ModelCardData(
        model_name=name,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["vila2", "recaptioning", "vision-language-model"],
        base_model=[base for base in bases if _HUB_ID.fullmatch(base) and not is_there(Path(base))] or None,
        eval_results=evals or None,
    )
    stage = str(chain[0][1].get("stage", ""))
    about = (
        f"A vision-language checkpoint that the stage `{plain(stage)}` of vila2 {__version__} wrote: a model "
        "that describes its own pretraining images and is retrained on the descriptions "
        "([VILA^2](https://arxiv.org/abs/2407.17453)). It loads in transformers and vLLM as it is."
    )
    body = [
        f"# {plain(name)}",
        about + _continued(chain),
        section("Parents", table(["made by", "from", "weights (SHA-256)"], _parent_rows(chain, sha256))),
        section("Training data", table(["stage", "data", "shards", "from", "layers"], _data_rows(chain))),
        section("Tiles", _tiles(folder, reader)),
        section("Prompts", _prompts(folder, chain, reader, recipe)),
        section("Training", table(_PHASE_HEAD, _phase_rows(chain))),
        section("Captions drawn", table(["stage", "phase", *DRAWN_HEAD], _drawn_rows(chain))),
        section("Scores", _scores(result)),
        section("Cost", _training_cost(chain, recipe)),
        section("Known failures", _model_failures(result, folder, reader), damaged(reader)),
    ]
    return document(head.to_yaml(), body)


def _lineage(folder: Path, reader: JsonReader) -> Lineage:
    """The checkpoint's vila2.json and those of its parents as far as they are there, newest first."""
    chain = [(folder, reader.read(folder / "vila2.json"))]
    while len(chain) < MAX_PARENTS:
        parent = table_of(chain[-1][1].get("parent"))
        place = Path(str(parent.get("path", ""))) if parent else Path()
        if not is_there(place / "vila2.json", Path.is_file):
            # The run folder may have moved: a parent of a stage is mostly its neighbour.
            place = chain[-1][0].parent / place.name
        if not parent or not is_there(place / "vila2.json", Path.is_file):
            return chain
        chain.append((place, reader.read(place / "vila2.json")))
    return chain


def _continued(chain: Lineage) -> str:
    """A sentence about a pretraining that did not start from scratch, "" for one that did."""
    trained = [made for _, made in chain if made.get("stage") == "pretrain"]
    parents = [table_of(made.get("parent")) for made in trained]
    models = [plain(str(parent.get("path", ""))) for parent in parents if parent]
    return f"\n\nIts pretraining continued from {models[-1]}; it is not trained from scratch." if models else ""


def _parent_rows(chain: Lineage, sha256: str) -> list[tuple[object, ...]]:
    made = [(lineage.get("stage", ""), *one) for _, lineage in chain for one in parents_of(lineage)]
    return [("this checkpoint", "", sha256 or "its weights are not here"), *made]


def _data_rows(chain: Lineage) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for _, lineage in chain:
        sources = table_of(lineage.get("sources"))
        for name, num_base, layers in data_sources(lineage.get("data")):
            places = ", ".join(map(redacted, table_of(table_of(sources.get(name)).get("shards"))))
            rows.append((lineage.get("stage", ""), name, num_base, places, ", ".join(layers) or "none"))
    return rows


def _prompts(folder: Path, chain: Lineage, reader: JsonReader, recipe: Recipe) -> str:
    """The prompts of those layers of the run that it was trained on, known by the digests of their shards."""
    digests = {
        digest
        for _, lineage in chain
        for source in table_of(lineage.get("data")).values()
        for digest in table_of(source).values()
        if isinstance(digest, str)
    }
    group = folder.resolve().parent
    run_dir = group.parent.parent if group.parent.name == "specialists" else group.parent
    rows: list[tuple[object, ...]] = []
    for layer in sorted((*run_dir.glob("round*/*"), *run_dir.glob("specialists/*/relabel"))):
        if not (layer / "layer.json").is_file():
            continue
        if any(str(stats.get("sha256")) in digests for stats in layer_stats(layer, reader)):
            inputs = reader.read(layer / "manifest.json").get("inputs")
            known = prompt_rows({}, table_of(inputs), recipe_near(layer, recipe))
            rows += [(layer.relative_to(run_dir), name, text) for name, _, text in known]
    return table(["layer", "id", "text"], rows)


def _tiles(folder: Path, reader: JsonReader) -> str:
    """How pictures are cut where that is not the rule of the processor's class, which other tools go by."""
    path = folder / "processor_config.json"
    told = table_of(reader.read(path).get("image_processor")) if is_there(path, Path.is_file) else {}
    rule = table_of(told.get("vila2_tiles"))
    if rule.get("method") != "catty":
        return ""
    return (
        f"It was trained on pictures in at most {whole(rule.get('max'))} tiles that overlap in place of being "
        "stretched (CATTY, [POINTS](https://arxiv.org/abs/2409.04828) section 3.1). vila2 cuts them so, in "
        "transformers and in vLLM. Other tools go by the processor's own rule, a grid of stretched tiles, and "
        "show the model pictures as it never saw them in training: it answers otherwise there, as a small "
        f"model did in {STOCK_RULE}. What is trained with "
        '`base.tiles.method = "dynamic"` is shown the same everywhere.'
    )


_PHASE_HEAD = ["stage", "phase", "samples", "tokens", "epochs", "learning rate", "batch", "trained"]


def _phase_rows(chain: Lineage) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for _, lineage in chain:
        settings = table_of(lineage.get("settings"))
        for phase in tables_of(lineage.get("phases")):
            chosen = settings.get(str(phase.get("phase")), settings)
            if isinstance(chosen, dict):
                figures = [compact(whole(phase.get(key))) for key in ("num_samples", "num_tokens")]
                values = [chosen.get(key, "") for key in ("epochs", "learning_rate", "batch_size")]
                trained = chosen.get("train")
                parts = ", ".join(map(str, trained)) if isinstance(trained, list) else ""
                rows.append((lineage.get("stage", ""), phase.get("phase", ""), *figures, *values, parts))
    return rows


def _drawn_rows(chain: Lineage) -> list[tuple[object, ...]]:
    """What the shares of captions came to, where one was drawn of an image in each epoch."""
    return [
        (lineage.get("stage", ""), phase.get("phase", ""), *row)
        for _, lineage in chain
        for phase in tables_of(lineage.get("phases"))
        for drawn in table_of(phase.get("drawn")).values()
        for row in drawn_rows(table_of(drawn))
    ]


def _result(folder: Path, sha256: str, reader: JsonReader) -> RoundResult | None:
    """What the evaluation beside a checkpoint measured, if it was of these very weights."""
    metrics = reader.read(folder.parent / "eval" / "metrics.json")
    is_same = bool(sha256) and metrics.get("model_sha256") == sha256
    return read_result(folder.parent.name, metrics) if is_same else None


def _scores(result: RoundResult | None) -> str:
    if result is None:
        return "No evaluation of these weights is beside them."
    rows: list[tuple[object, ...]] = [
        (task.name, metric, figure_text(figure), task.num_samples)
        for task in result.tasks.values()
        for metric, figure in task.metrics.items()
    ]
    if result.qa_mean is not None:
        rows.append(("mean over question tasks", "", figure_text(result.qa_mean), ""))
    note = (
        f"Intervals are 95% bootstrap intervals over images, cautious ones for shares of fewer than "
        f"{FEW_IMAGES}, or all right or wrong; they do not cover a repeat of the training."
    )
    return f"{table(['task', 'metric', 'value, 95% interval', 'samples'], rows)}\n\n{note}"


def _training_cost(chain: Lineage, recipe: Recipe) -> str:
    rows: list[tuple[object, ...]] = []
    total = 0.0
    for _, lineage in chain:
        if (seconds := real(lineage.get("seconds"))) is not None:
            total += seconds
            rows.append((lineage.get("stage", ""), *_hours(seconds, recipe)))
    if len(rows) > 1:
        rows.append(("in all", *_hours(total, recipe)))
    return table(["stage", "time", f"{recipe.cost.device}, one device", "dollars"], rows)


def _hours(seconds: float, recipe: Recipe) -> tuple[str, str, str]:
    cost = Cost(num_images=0, num_tokens=0, seconds=seconds, dollars_per_hour=recipe.cost.dollars_per_hour)
    return duration(seconds), number(cost.hours, 3), dollars(cost.dollars) if cost.dollars else "no price set"


def _model_failures(result: RoundResult | None, folder: Path, reader: JsonReader) -> str:
    lines = []
    caption = result.caption if result else None
    kinds = {"precision": "of what it states is wrong", "recall": "of what is there is left out"}
    for metric, text in kinds.items():
        if caption is not None and (figure := caption.metrics.get(metric)) is not None:
            lines.append(f"- captions: {100 * (1 - figure.value):.1f}% {text} ({plain(caption.name)})")
    scored = [(task, task.figure) for task in (result.qa_tasks if result else ()) if task.figure is not None]
    for task, figure in sorted(scored, key=lambda pair: pair[1].value)[:3]:
        lines.append(f"- weak task: {plain(task.name)}, {plain(task.headline)} {figure_text(figure)}")
    lines += reject_lines(folder, reader, "could not be trained on")
    if result is None:
        lines.append("- not evaluated: how good its answers are is not known")
    return "\n".join(lines)
