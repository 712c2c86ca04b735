"""What a run's checkpoints and caption layers were made from, drawn: a column a round, an arrow a use.

Arrows are what the stages recorded, not what a recipe would do: the parent of a checkpoint, the layers in a
training's sources by their digest, the model that a layer's captions or answers come from.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from vila2cli.report.json_reader import table_of, tables_of
from vila2cli.report.plots import svg, tag
from vila2cli.report.run_folder import RunRecord, StageRecord
from vila2cli.report.wording import visible

LEFT_OUT = ("eval", "judge", "judge-people")
"""Stages that nothing is made from."""
BOX_WIDTH, BOX_HEIGHT = 132, 40
GAP_X, GAP_Y, TOP = 56, 26, 26
_MOST_LETTERS = 24


def edges(run: RunRecord) -> list[tuple[str, str]]:
    """The labels of a stage and of one made from it, in the order of the run."""
    stages = _drawn(run)
    pairs = [(source.label, stage.label) for stage in stages for source in _sources(stage, stages, run)]
    return list(dict.fromkeys(pairs))


def lineage_graph(run: RunRecord) -> Markup:
    """The stages as boxes with an arrow for every edge, as inline SVG; empty where nothing was made."""
    stages = _drawn(run)
    if not stages:
        return Markup("")
    columns = list(dict.fromkeys(stage.group for stage in stages))
    rows: dict[str, int] = dict.fromkeys(columns, 0)
    corners: dict[str, tuple[int, int]] = {}
    for stage in stages:
        column = columns.index(stage.group)
        corners[stage.label] = (
            column * (BOX_WIDTH + GAP_X) + 2,
            TOP + rows[stage.group] * (BOX_HEIGHT + GAP_Y),
        )
        rows[stage.group] += 1
    arrows = edges(run)
    width = len(columns) * (BOX_WIDTH + GAP_X) - GAP_X + 4
    height = TOP + max(rows.values()) * (BOX_HEIGHT + GAP_Y)
    parts = []
    for column, group in enumerate(columns):
        x = column * (BOX_WIDTH + GAP_X) + 2 + BOX_WIDTH / 2
        parts.append(tag("text", visible(group, 24), x=x, y=14, class_="column mid"))
    parts += [_arrow(corners[source], corners[target]) for source, target in arrows]
    parts += [_box(stage, corners[stage.label]) for stage in stages]
    summary = f"{len(stages)} checkpoints and layers, {len(arrows)} arrows from what each was made from"
    return svg((width, height), *parts, width=width, height=height, role="img", aria_label=summary)


def _drawn(run: RunRecord) -> list[StageRecord]:
    return [stage for stage in run.stages if stage.state != "missing" and stage.name not in LEFT_OUT]


def _sources(stage: StageRecord, stages: Sequence[StageRecord], run: RunRecord) -> Iterator[StageRecord]:
    digests = set(_layer_digests(stage.summary))
    places = [table_of(stage.summary.get("parent")).get("path"), stage.summary.get("model")]
    for other in stages:
        own = other.folder.relative_to(run.run_dir).parts
        is_named = any(isinstance(place, str) and PurePath(place).parts[-len(own) :] == own for place in places)
        if other is not stage and (is_named or digests & {_digest(other.manifest), _digest(other.layer)}):
            yield other


def _digest(record: Mapping[str, Any]) -> str:
    return str(record.get("digest", ""))


def _layer_digests(summary: Mapping[str, Any]) -> Iterator[str]:
    """The digests of the layers that a training read."""
    for source in table_of(summary.get("sources")).values():
        for layer in tables_of(table_of(source).get("layers")):
            if isinstance(layer.get("digest"), str):
                yield layer["digest"]


def _below(stage: StageRecord) -> str:
    """What is read beside other stages' work: the names of the data, or how many records came of it."""
    if data := table_of(stage.summary.get("data")):
        text = visible(", ".join(str(name) for name in data))
        return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"
    return f"{stage.num_out:,} records" if stage.num_out else ""


def _box(stage: StageRecord, corner: tuple[int, int]) -> Markup:
    x, y = corner
    return tag(
        "g",
        tag("title", f"{visible(stage.label, 80)}: {visible(stage.folder, 200)}"),
        tag("rect", x=x, y=y, width=BOX_WIDTH, height=BOX_HEIGHT, rx=5, class_=f"box {stage.state}"),
        tag("text", visible(stage.name, 22), x=x + BOX_WIDTH / 2, y=y + 17, class_="stage mid"),
        tag("text", _below(stage), x=x + BOX_WIDTH / 2, y=y + 31, class_="below mid"),
    )


def _arrow(source: tuple[int, int], target: tuple[int, int]) -> Markup:
    """Down within a column, around the boxes between, else from the right edge to the left one."""
    middle = BOX_HEIGHT / 2
    if source[0] != target[0]:
        start, end = (source[0] + BOX_WIDTH + 0.0, source[1] + middle), (target[0] + 0.0, target[1] + middle)
        bends = (GAP_X * 0.7, -GAP_X * 0.7)
    elif target[1] - source[1] > BOX_HEIGHT + GAP_Y:
        start, end = (source[0] + 0.0, source[1] + middle), (target[0] + 0.0, target[1] + middle)
        bends = (-GAP_X / 3, -GAP_X / 3)
    else:
        x = source[0] + BOX_WIDTH / 2
        start, end, bends = (x, source[1] + BOX_HEIGHT + 0.0), (x, target[1] + 0.0), (0.0, 0.0)
    controls = [(x + bend, y) for (x, y), bend in zip((start, end), bends, strict=True)]
    points = [f"{x:.1f} {y:.1f}" for x, y in (start, *controls, end)]
    head = "l-3.5 -7h7z" if start[0] == end[0] and not bends[0] else "l-7 -3.5v7z"
    return tag(
        "g",
        tag("path", d=f"M{points[0]}C{', '.join(points[1:])}", class_="arrow"),
        tag("path", d=f"M{points[-1]}{head}", class_="head"),
    )
