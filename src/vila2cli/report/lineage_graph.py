"""What a run's checkpoints and caption layers were made from, drawn: a column a round, an arrow a use.

Arrows are what the stages recorded, not what a recipe would do: the parent of a checkpoint, the layers in a
training's sources by their digest, the model that a layer's captions or answers come from.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from vila2cli.report.plots import tag
from vila2cli.report.run_folder import RunRecord, Stage
from vila2cli.report.wording import visible

LEFT_OUT = ("eval", "judge", "judge-people")
"""Stages that nothing is made from."""
BOX_WIDTH, BOX_HEIGHT = 132, 40
GAP_X, GAP_Y, TOP = 56, 26, 26
_MOST_LETTERS = 24


@dataclass(frozen=True, slots=True)
class Edge:
    """An arrow between two stages, by their labels."""

    source: str
    target: str


def edges(run: RunRecord) -> list[Edge]:
    """What was made from what among the stages of a run, in their order."""
    stages = _drawn(run)
    found = [Edge(source.label, stage.label) for stage in stages for source in _sources(stage, stages, run)]
    return list(dict.fromkeys(found))


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
    parts += [_arrow(corners[edge.source], corners[edge.target]) for edge in arrows]
    parts += [_box(stage, corners[stage.label]) for stage in stages]
    said = f"{len(stages)} checkpoints and layers, {len(arrows)} arrows from what each was made from"
    return tag(
        "svg", *parts, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img", aria_label=said
    )


def _drawn(run: RunRecord) -> list[Stage]:
    return [stage for stage in run.stages if stage.state != "missing" and stage.name not in LEFT_OUT]


def _sources(stage: Stage, stages: Sequence[Stage], run: RunRecord) -> Iterator[Stage]:
    digests = set(_layer_digests(stage.summary))
    parent = stage.summary.get("parent")
    places = [parent.get("path") if isinstance(parent, dict) else None, stage.summary.get("model")]
    for other in stages:
        own = other.folder.relative_to(run.run_dir).parts
        is_named = any(isinstance(place, str) and PurePath(place).parts[-len(own) :] == own for place in places)
        if other is not stage and (is_named or digests & {_digest(other.manifest), _digest(other.layer)}):
            yield other


def _digest(record: Mapping[str, Any]) -> str:
    return str(record.get("digest", ""))


def _layer_digests(summary: Mapping[str, Any]) -> Iterator[str]:
    """The digests of the layers that a training read."""
    sources = summary.get("sources")
    for source in sources.values() if isinstance(sources, dict) else ():
        layers = source.get("layers") if isinstance(source, dict) else None
        for layer in layers if isinstance(layers, list) else ():
            if isinstance(layer, dict) and isinstance(layer.get("digest"), str):
                yield layer["digest"]


def _below(stage: Stage) -> str:
    """What is read beside other stages' work: the names of the data, or how many records came of it."""
    data = stage.summary.get("data")
    if isinstance(data, dict) and data:
        text = visible(", ".join(str(name) for name in data))
        return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"
    return f"{stage.num_out:,} records" if stage.num_out else ""


def _box(stage: Stage, corner: tuple[int, int]) -> Markup:
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
