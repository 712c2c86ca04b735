"""What the run recorded beside its results: rejects, cost, and what every stage was made from."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from markupsafe import Markup

from vila2cli.report.json_reader import whole
from vila2cli.report.plots import cost_chart
from vila2cli.report.run_folder import RunRecord, Stage, State
from vila2cli.report.tables import Tile
from vila2cli.report.wording import NOT_RUN, compact, dollars, duration, number, visible
from vila2cli.run.cost import HUMAN_DOLLARS, PAPER_DOLLARS, Cost
from vila2cli.settings import CostSettings
from vila2cli.shards.places import redacted

COST_NOTE = (
    "The paper's figures are for labelling alone: $0.12 is one recaption pass at 10.6 images/s on an H100 of "
    "$4.91 an hour, $36 is human captioning (VILA^2 section 3.6). Retraining is in neither."
)
STATE_WORDS: Mapping[State, str] = {"done": "done", "partial": "unfinished", "missing": "not run yet"}


@dataclass(frozen=True, slots=True)
class RejectRow:
    stage: str
    reason: str
    count: str
    share: str
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LedgerRow:
    stage: str
    cells: tuple[str, ...]
    total: bool = False


@dataclass(frozen=True, slots=True)
class LineageRow:
    stage: str
    model: str
    weights: str
    inputs: str
    digest: str
    version: str
    finished: str


@dataclass(frozen=True, slots=True)
class StateCell:
    state: State
    text: str


@dataclass(frozen=True, slots=True)
class MatrixRow:
    label: str
    cells: tuple[StateCell | None, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    columns: tuple[str, ...]
    rows: tuple[MatrixRow, ...]


def reject_rows(run: RunRecord) -> tuple[list[RejectRow], str]:
    """Rejected samples by stage and reason, and the sentence above them."""
    rows = []
    num_in = sum(stage.num_in for stage in run.stages)
    num_rejected = sum(stage.num_rejected for stage in run.stages)
    for stage in run.stages:
        for reason, count in sorted(stage.dropped.items(), key=lambda pair: (-pair[1], pair[0])):
            share = f"{100 * count / stage.num_in:.2f} %" if stage.num_in else NOT_RUN
            examples = stage.rejects.get(reason, ())
            rows.append(RejectRow(stage.label, reason, f"{count:,}", share, examples))
    if not num_in:
        return rows, "No stage has counted its samples yet."
    if not rows:
        return rows, f"None: all {num_in:,} samples that the stages met were used."
    on_purpose = sum(sum(stage.dropped.values()) for stage in run.stages) - num_rejected
    note = f"{num_rejected:,} of {num_in:,} samples could not be used"
    note += f"; {on_purpose:,} more were left out on purpose." if on_purpose > 0 else "."
    return rows, f"{note} Each one is listed in its layer's rejects.jsonl."


def stage_cost(stage: Stage, settings: CostSettings) -> Cost | None:
    """The cost of a stage in the unit that it recorded, else the recipe's; None when it recorded no time.

    Hours have the recipe's price of today. What a server charged is known, and its hours have none.
    """
    if stage.seconds is None:
        return None
    cost = stage.summary.get("cost")
    recorded = cost if isinstance(cost, Mapping) else {}
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


def ledger(run: RunRecord, settings: CostSettings) -> list[LedgerRow]:
    """One line per stage that recorded its time, and their total."""
    rows, costs = [], []
    for stage in run.stages:
        if (cost := stage_cost(stage, settings)) is not None:
            costs.append(cost)
            rows.append(LedgerRow(stage.label, _ledger_cells(cost)))
    if len(costs) > 1:
        paid = sum(cost.dollars for cost in costs)
        price = f"{dollars(paid)} in all" if paid else NOT_RUN
        cells = ("", duration(sum(cost.seconds for cost in costs)), "", "", "", _hours(costs), price)
        rows.append(LedgerRow("all stages", cells, total=True))
    return rows


def _hours(costs: Sequence[Cost]) -> str:
    """The hours of several stages, each unit by itself."""
    units = dict.fromkeys(cost.device for cost in costs)
    sums = {unit: sum(cost.hours for cost in costs if cost.device == unit) for unit in units}
    return " + ".join(f"{number(hours, 3)} {unit}" for unit, hours in sums.items())


def _ledger_cells(cost: Cost) -> tuple[str, ...]:
    return (
        f"{cost.num_images:,}" if cost.num_images else NOT_RUN,
        duration(cost.seconds),
        compact(cost.images_per_s) if cost.images_per_s else NOT_RUN,
        compact(cost.num_tokens) if cost.num_tokens else NOT_RUN,
        compact(cost.tokens_per_s) if cost.tokens_per_s else NOT_RUN,
        _hours([cost]),
        dollars(cost.dollars_per_1k) if cost.dollars_per_1k else NOT_RUN,
    )


def recaption_costs(run: RunRecord, settings: CostSettings) -> list[Cost]:
    """The costs of all recaption passes that captioned something."""
    found = [stage_cost(stage, settings) for stage in run.stages if stage.name == "recaption"]
    return [cost for cost in found if cost is not None and cost.num_images and cost.seconds > 0]


def cost_tile(costs: Sequence[Cost]) -> Tile | None:
    """What one recaption pass costs per 1,000 images, on what the last one ran."""
    if not costs:
        return None
    costs = [cost for cost in costs if cost.device == costs[-1].device]
    rate = f"{compact(statistics.fmean(c.images_per_s for c in costs))} images/s"
    if any(cost.dollars for cost in costs):
        price = dollars(statistics.fmean(cost.dollars_per_1k for cost in costs))
        return Tile("Recaptioning 1k images", price, f"{rate}; the paper $0.12, human labels $36")
    hours = compact(statistics.fmean(cost.hours_per_1k for cost in costs))
    return Tile("Recaptioning 1k images", hours, f"{costs[0].device}, {rate}")


def cost_figure(costs: Sequence[Cost]) -> tuple[Markup | None, str]:
    """The price of a recaption pass beside the paper's, and the note under it."""
    if not costs:
        return None, f"No recaption pass has run yet. {COST_NOTE}"
    if not any(cost.dollars for cost in costs):
        return None, f"The recipe sets no price; [cost] dollars_per_hour turns hours into dollars. {COST_NOTE}"
    own = statistics.fmean(cost.dollars_per_1k for cost in costs)
    lines = [
        ("this run, one recaption pass", own, True),
        ("VILA^2, one recaption pass", PAPER_DOLLARS, False),
        ("human captions", HUMAN_DOLLARS, False),
    ]
    summary = f"Dollars per 1,000 images: this run {dollars(own)}, VILA^2 $0.12, human captions $36"
    return cost_chart(lines, summary=summary), COST_NOTE


def matrix(run: RunRecord) -> Matrix:
    """Which stage of which round is there."""
    groups = list(dict.fromkeys(stage.group for stage in run.stages))
    columns = list(dict.fromkeys(stage.name for stage in run.stages))
    order = ["recaption", "rewrite", "filter", "pretrain", "sft", "checkpoint", "relabel", "eval", "judge"]
    columns.sort(key=lambda name: order.index(name) if name in order else len(order))
    rows = []
    for group in groups:
        found = [run.stage(group, name) for name in columns]
        rows.append(MatrixRow(group, tuple(_state_cell(stage) for stage in found)))
    return Matrix(tuple(columns), tuple(rows))


def _state_cell(stage: Stage | None) -> StateCell | None:
    if stage is None:
        return None
    text = STATE_WORDS[stage.state]
    if stage.state == "partial" and stage.num_expected:
        text = f"{stage.num_shards} of {stage.num_expected} shards"
    return StateCell(stage.state, text)


def lineage_rows(run: RunRecord) -> list[LineageRow]:
    """What every stage that is there was made from, as its manifest and layer.json say."""
    return [_lineage_row(stage) for stage in run.stages if stage.state != "missing"]


def _lineage_row(stage: Stage) -> LineageRow:
    inputs = stage.manifest.get("inputs")
    known = {**stage.summary, **(inputs if isinstance(inputs, dict) else {})}
    models = _models(known)
    versions = (known.get("vila2"), stage.manifest.get("vila2"), stage.layer.get("vila2"))
    return LineageRow(
        stage=stage.label,
        model=" + ".join(path for path, _ in models) or NOT_RUN,
        weights=" + ".join(sha256[:12] for _, sha256 in models if sha256),
        inputs=_tasks_text(known.get("tasks"))
        or _base_text(stage.layer)
        or _data_text(known.get("data"))
        or NOT_RUN,
        digest=visible(stage.manifest.get("digest") or stage.layer.get("digest") or "", 64),
        version=visible(next((v for v in versions if v), ""), 20),
        finished=when(stage.finished),
    )


def _models(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Path and weights of what a stage started from: the bases, a parent checkpoint, or the model it ran."""
    bases = known.get("bases")
    places = list(bases.values()) if isinstance(bases, dict) else [known.get("parent")]
    found = [
        (visible(place.get("path", ""), 120), visible(place.get("sha256", ""), 64))
        for place in places
        if isinstance(place, dict)
    ]
    if found:
        return found
    model, sha256 = known.get("model"), known.get("model_sha256")
    if not isinstance(model, str) and not isinstance(sha256, str):
        return []
    return [(visible(model or "", 120), visible(sha256 or "", 64))]


def _tasks_text(tasks: object) -> str:
    names = [str(name) for name in tasks] if isinstance(tasks, dict) else []
    return visible(f"{len(names)} tasks: {', '.join(names)}", 300) if names else ""


def _base_text(layer: Mapping[str, Any]) -> str:
    """The base shards of a layer in one phrase: how many, from which folders."""
    base = layer.get("base")
    if not isinstance(base, list) or not base:
        return ""
    urls = [redacted(str(one.get("url", ""))) for one in base if isinstance(one, dict)]
    folders = list(dict.fromkeys(str(PurePosixPath(url).parent) for url in urls))
    more = f" and {len(folders) - 3} more folders" if len(folders) > 3 else ""
    return visible(f"{_counted(len(base))} of {', '.join(folders[:3])}{more}", 300)


def _data_text(data: object) -> str:
    """The shards of a training stage in one phrase: `pretrain: 8 shards + recaption`."""
    parts = []
    for name, digests in data.items() if isinstance(data, dict) else ():
        names = [str(one) for one in digests] if isinstance(digests, dict) else []
        layers = dict.fromkeys(one.partition("+")[2] for one in names if "+" in one)
        num_base = sum("+" not in one for one in names)
        parts.append(" + ".join([f"{name}: {_counted(num_base)}", *layers]))
    return visible("; ".join(parts), 300)


def _counted(num_shards: int) -> str:
    return f"{num_shards} shard" if num_shards == 1 else f"{num_shards} shards"


def when(seconds: float | None) -> str:
    """A time since 1970 as date and minute in UTC."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
