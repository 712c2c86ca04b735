"""What the run recorded beside its results: rejects, cost, and what every stage was made from."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from markupsafe import Markup

from vila2cli.report.headline import Tile
from vila2cli.report.json_reader import table_of, tables_of, whole
from vila2cli.report.plots import cost_chart, tag
from vila2cli.report.run_folder import RunRecord, StageRecord, State
from vila2cli.report.tables import Cell, Table, TableRow, columns
from vila2cli.report.wording import NOT_RUN, compact, dollars, duration, number, visible
from vila2cli.run.cost import HUMAN_DOLLARS, PAPER_DOLLARS, Cost
from vila2cli.settings import CostSettings
from vila2cli.shards.places import redacted

COST_NOTE = (
    "The paper's figures are for labelling alone: $0.12 is one recaption pass at 10.6 images/s on an H100 of "
    "$4.91 an hour, $36 is human captioning (VILA^2 section 3.6). Retraining is in neither."
)
STATE_WORDS: Mapping[State, str] = {"done": "done", "partial": "unfinished", "missing": "not run yet"}
NOT_DRAWN = "not-drawn"
"""Why a judge leaves out most samples: `judge.num_samples` are asked for."""
_STAGE_ORDER = ("recaption", "rewrite", "filter", "pretrain", "sft", "checkpoint", "relabel", "eval", "judge")
_REJECT_COLUMNS = columns("Stage", "Reason", num=("Samples", "Share of input"), long=("First of them",))
_LEDGER_COLUMNS = columns(
    "Stage", num=("Samples", "Time", "Samples/s", "Tokens", "Tokens/s", "Device hours", "$ per 1k images")
)
_LINEAGE_COLUMNS = (
    *(("Stage", ""), ("Model", "long"), ("Weights", ""), ("Inputs", "long"), ("Digest", "")),
    *(("vila2", ""), ("Finished", "time")),
)


@dataclass(frozen=True, slots=True)
class CostSection:
    """The time and price of every stage, and what a recaption pass costs beside the paper's."""

    ledger: Table
    chart: Markup | None
    note: str


def reject_table(run: RunRecord) -> Table:
    """Rejected samples by stage and reason, and the sentence above them."""
    rows = []
    for stage in run.stages:
        for reason, count in sorted(_told(stage).items(), key=lambda pair: (-pair[1], pair[0])):
            share = f"{100 * count / stage.num_in:.2f} %" if stage.num_in else NOT_RUN
            examples = _examples(stage.rejects.get(reason, ()))
            rows.append(TableRow(stage.label, (reason, f"{count:,}", share, examples)))
    return Table(_REJECT_COLUMNS, tuple(rows), _reject_note(run))


def _told(stage: StageRecord) -> dict[str, int]:
    """The samples that a stage left out by reason, but for those that a judge was never to see."""
    is_judge = stage.name == "judge"
    return {reason: num for reason, num in stage.dropped.items() if not (is_judge and reason == NOT_DRAWN)}


def _place(name: str) -> tuple[int, str]:
    """Where a stage comes in a round; further caption layers come after the first."""
    return _STAGE_ORDER.index("recaption" if name.startswith("recaption-") else name), name


def _examples(lines: Sequence[str]) -> Markup:
    if not lines:
        return tag("small", "not listed")
    return tag("details", tag("summary", lines[0]), tag("ul", *(tag("li", line) for line in lines)))


def _reject_note(run: RunRecord) -> str:
    num_in = sum(stage.num_in for stage in run.stages)
    num_rejected = sum(stage.num_rejected for stage in run.stages)
    num_dropped = sum(sum(_told(stage).values()) for stage in run.stages)
    if not num_in:
        return "No stage has counted its samples yet."
    if not any(map(_told, run.stages)):
        return f"None: all {num_in:,} samples that the stages met were used."
    note = f"{num_rejected:,} of {num_in:,} samples could not be used"
    on_purpose = num_dropped - num_rejected
    note += f"; {on_purpose:,} more were left out on purpose." if on_purpose > 0 else "."
    return f"{note} Each one is listed in its layer's rejects.jsonl."


def stage_cost(stage: StageRecord, settings: CostSettings) -> Cost | None:
    """The cost of a stage in the unit that it recorded, else the recipe's; None when it recorded no time.

    Hours have the recipe's price of today. What a server charged is known, and its hours have none.
    """
    if stage.seconds is None:
        return None
    recorded = table_of(stage.summary.get("cost"))
    spent, device = recorded.get("spent"), recorded.get("device")
    charged = float(spent) if isinstance(spent, int | float) else None
    return Cost(
        num_images=whole(stage.summary.get("images")) or stage.num_out or stage.num_in,
        num_tokens=stage.num_tokens,
        seconds=stage.seconds,
        num_devices=stage.num_devices,
        device=visible(device, 20) if isinstance(device, str) else settings.device,
        dollars_per_hour=settings.dollars_per_hour if charged is None else 0.0,
        spent=charged,
    )


def cost_section(run: RunRecord, settings: CostSettings) -> CostSection:
    """The costs of the stages that recorded their time."""
    return CostSection(_ledger(run, settings), *_cost_figure(recaption_costs(run, settings)))


def _ledger(run: RunRecord, settings: CostSettings) -> Table:
    """One line per stage that recorded its time, and their total."""
    known = [(stage, stage_cost(stage, settings)) for stage in run.stages]
    costs = [cost for _, cost in known if cost is not None]
    rows = [TableRow(stage.label, _ledger_cells(cost)) for stage, cost in known if cost is not None]
    if len(costs) > 1:
        paid = sum(cost.dollars for cost in costs)
        price = f"{dollars(paid)} in all" if paid else NOT_RUN
        cells = ("", duration(sum(cost.seconds for cost in costs)), "", "", "", _hours(costs), price)
        rows.append(TableRow("all stages", cells, style="total"))
    return Table(_LEDGER_COLUMNS, tuple(rows))


def _hours(costs: Sequence[Cost]) -> str:
    """The hours of several stages, each unit by itself."""
    units = dict.fromkeys(cost.device for cost in costs)
    sums = {unit: sum(cost.hours for cost in costs if cost.device == unit) for unit in units}
    return " + ".join(f"{number(hours, 3)} {unit}" for unit, hours in sums.items())


def _ledger_cells(cost: Cost) -> tuple[str, ...]:
    def known(value: float, write: Callable[[float], str] = compact) -> str:
        return write(value) if value else NOT_RUN

    return (
        known(cost.num_images, "{:,}".format),
        duration(cost.seconds),
        known(cost.images_per_s),
        known(cost.num_tokens),
        known(cost.tokens_per_s),
        _hours([cost]),
        known(cost.dollars_per_1k, dollars),
    )


def recaption_costs(run: RunRecord, settings: CostSettings) -> list[Cost]:
    """The costs of all recaption passes that captioned something."""
    costs = [stage_cost(stage, settings) for stage in run.stages if stage.name == "recaption"]
    return [cost for cost in costs if cost is not None and cost.num_images and cost.seconds > 0]


def cost_tile(costs: Sequence[Cost]) -> Tile | None:
    """What one recaption pass costs per 1,000 images, on what the last one ran."""
    if not costs:
        return None
    costs = [cost for cost in costs if cost.device == costs[-1].device]
    rate = f"{compact(statistics.fmean(c.images_per_s for c in costs))} images/s"
    if any(cost.dollars for cost in costs):
        price = dollars(statistics.fmean(cost.dollars_per_1k for cost in costs))
        hired = f", by the {costs[-1].device.removesuffix('s')}" if costs[-1].spent is None else ""
        beside = "; the paper $0.12, human labels $36" if costs[-1].is_like_paper else hired
        return Tile("Recaptioning 1k images", price, f"{rate}{beside}")
    hours = compact(statistics.fmean(cost.hours_per_1k for cost in costs))
    return Tile("Recaptioning 1k images", hours, f"{costs[0].device}, {rate}")


def _cost_figure(costs: Sequence[Cost]) -> tuple[Markup | None, str]:
    """The price of a recaption pass beside the paper's where both are of GPUs, and the note under it."""
    if not costs:
        return None, "No recaption pass has run yet."
    if not any(cost.dollars for cost in costs):
        return None, "The recipe sets no price; [cost] dollars_per_hour turns hours into dollars."
    costs = [cost for cost in costs if cost.is_like_paper]
    if not costs:
        return None, ""
    own = statistics.fmean(cost.dollars_per_1k for cost in costs)
    lines = [
        ("this run, one recaption pass", own, True),
        ("VILA^2, one recaption pass", PAPER_DOLLARS, False),
        ("human captions", HUMAN_DOLLARS, False),
    ]
    summary = f"Dollars per 1,000 images: this run {dollars(own)}, VILA^2 $0.12, human captions $36"
    return cost_chart(lines, summary=summary), COST_NOTE


def matrix(run: RunRecord) -> Table:
    """The state of every stage of every round."""
    names = sorted({stage.name for stage in run.stages}, key=_place)
    rows = (
        TableRow(group, tuple(_state_cell(run.stage(group, name)) for name in names))
        for group in dict.fromkeys(stage.group for stage in run.stages)
    )
    return Table(columns("What ran", *names), tuple(rows))


def _state_cell(stage: StageRecord | None) -> Cell | None:
    if stage is None:
        return None
    text = STATE_WORDS[stage.state]
    if stage.state == "partial" and stage.num_expected:
        text = f"{stage.num_shards} of {stage.num_expected} shards"
    return Cell(text, style=stage.state)


def lineage_table(run: RunRecord) -> Table:
    """What every stage that is there was made from, according to its manifest and layer.json."""
    there = (stage for stage in run.stages if stage.state != "missing")
    return Table(_LINEAGE_COLUMNS, tuple(map(_lineage_row, there)))


def _lineage_row(stage: StageRecord) -> TableRow:
    known = {**stage.summary, **table_of(stage.manifest.get("inputs"))}
    models = _models(known)
    weights = " + ".join(sha256[:12] for _, sha256 in models if sha256)
    inputs = _tasks_text(known.get("tasks")) or _base_text(stage.layer) or _data_text(known.get("data"))
    digest = visible(stage.manifest.get("digest") or stage.layer.get("digest") or "", 64)
    versions = (known.get("vila2"), stage.manifest.get("vila2"), stage.layer.get("vila2"))
    cells = (
        " + ".join(path for path, _ in models) or NOT_RUN,
        tag("code", weights) if weights else NOT_RUN,
        inputs or NOT_RUN,
        tag("code", digest[:12], title=digest) if digest else NOT_RUN,
        visible(next((version for version in versions if version), ""), 20),
        when(stage.finished),
    )
    return TableRow(stage.label, cells)


def _models(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Path and weights of what a stage started from: the bases, a parent checkpoint, or the model it ran."""
    places = parents_of(known)
    model, sha256 = known.get("model"), known.get("model_sha256")
    if not places and (isinstance(model, str) or isinstance(sha256, str)):
        places = [(model or "", sha256 or "")]
    return [(visible(path, 120), visible(digest, 64)) for path, digest in places]


def parents_of(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Path and weights of the bases or the parent checkpoint that a stage recorded."""
    bases = known.get("bases")
    places = tables_of(list(bases.values()) if isinstance(bases, dict) else [known.get("parent")])
    return [(str(place.get("path", "")), str(place.get("sha256", ""))) for place in places]


def _tasks_text(tasks: object) -> str:
    names = [str(name) for name in table_of(tasks)]
    return visible(f"{len(names)} tasks: {', '.join(names)}", 300) if names else ""


def _base_text(layer: Mapping[str, Any]) -> str:
    """The base shards of a layer in one phrase: how many, from which folders."""
    base = layer.get("base")
    if not isinstance(base, list) or not base:
        return ""
    urls = [redacted(str(shard.get("url", ""))) for shard in tables_of(base)]
    folders = list(dict.fromkeys(str(PurePosixPath(url).parent) for url in urls))
    more = f" and {len(folders) - 3} more folders" if len(folders) > 3 else ""
    return visible(f"{_counted(len(base))} of {', '.join(folders[:3])}{more}", 300)


def _data_text(data: object) -> str:
    """The shards of a training stage in one phrase: `pretrain: 8 shards + recaption`."""
    sources = data_sources(data)
    parts = (" + ".join([f"{name}: {_counted(num)}", *layers]) for name, num, layers in sources)
    return visible("; ".join(parts), 300)


def data_sources(data: object) -> Iterator[tuple[str, int, list[str]]]:
    """Name, number of base shards and layers of each source that a training stage recorded under `data`."""
    for name, digests in table_of(data).items():
        parts = [str(part) for part in table_of(digests)]
        layers = dict.fromkeys(part.partition("+")[2] for part in parts if "+" in part)
        yield name, sum("+" not in part for part in parts), list(layers)


def _counted(num_shards: int) -> str:
    return f"{num_shards} shard" if num_shards == 1 else f"{num_shards} shards"


def when(seconds: float | None) -> str:
    """A time since 1970 as date and minute in UTC."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
