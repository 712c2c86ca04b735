"""What is in a run folder: which stages ran, what they counted, what they were made from.

Every file is taken as it is found. What is missing is "not run yet", what cannot be read is noted
in `JsonReader.damaged`; neither is an error.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vila2cli.errors import DataError
from vila2cli.report.json_reader import JsonReader, real, table_of, tables_of, whole
from vila2cli.report.wording import visible
from vila2cli.run.stages import done_file, is_complete
from vila2cli.shards import layer_tar

MAX_REJECTS = 8
"""Rejects shown of each stage and reason."""
State = Literal["done", "partial", "missing"]
ROUND_STAGES = ("recaption", "rewrite", "filter", "pretrain", "sft", "eval", "judge")
OPTIONAL_STAGES = ("rewrite", "filter")
"""Stages that a round may do without; they are only listed where they ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """A stage folder. Counts are sums over the shard stats; `seconds` is None where none is recorded."""

    group: str
    name: str
    folder: Path
    state: State
    num_shards: int = 0
    num_expected: int | None = None
    num_in: int = 0
    num_out: int = 0
    num_rejected: int = 0
    num_tokens: int = 0
    seconds: float | None = None
    num_devices: int = 1
    dropped: Mapping[str, int] = field(default_factory=dict)
    rejects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    layer: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    finished: float | None = None

    @property
    def label(self) -> str:
        return f"{self.group} · {self.name}"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The stages of a run in the order they run, and when the newest of them was written."""

    run_dir: Path
    stages: tuple[StageRecord, ...]
    rounds: tuple[int, ...]
    newest: float | None

    def stage(self, group: str, name: str) -> StageRecord | None:
        """The stage folder of a group ("round 1", "final", "specialist ocr"), None where there is none."""
        return next((s for s in self.stages if s.group == group and s.name == name), None)


def read_run(run_dir: Path, reader: JsonReader) -> RunRecord:
    """List every stage of a run folder, complete or not."""
    found = (re.fullmatch(r"round(\d{1,4})", path.name) for path in _begun(run_dir))
    rounds = sorted(int(match[1]) for match in found if match)
    stages = [
        _read_stage(run_dir / f"round{number}" / name, f"round {number}", name, reader)
        for number in rounds
        for name in _stage_names(run_dir / f"round{number}")
        if not (number == 0 and name in ("recaption", "judge"))
        and (name not in OPTIONAL_STAGES or (run_dir / f"round{number}" / name).is_dir())
    ]
    for specialist in _begun(run_dir / "specialists"):
        group = f"specialist {visible(specialist.name, 40)}"
        stages += [_read_stage(specialist / name, group, name, reader) for name in ("checkpoint", "relabel")]
    for last in _folders(run_dir):
        if last.name == "final" or last.name.startswith("final-"):
            group = visible(last.name, 60)
            stages += [_read_stage(last / name, group, name, reader) for name in ("pretrain", "sft", "eval")]
    times = [stage.finished for stage in stages if stage.finished is not None]
    return RunRecord(run_dir, tuple(stages), tuple(rounds), max(times, default=None))


def _stage_names(folder: Path) -> list[str]:
    """The stages of a round, with its further caption layers after the first."""
    more = sorted(path.name for path in _folders(folder) if path.name.startswith("recaption-"))
    first, *others = ROUND_STAGES
    return [first, *more, *others]


def _begun(folder: Path) -> list[Path]:
    """The folders in a folder, but for those of which a stage was only tried, by --limit."""
    tried = re.compile(r"limit-\d+")
    held = {path: [inner.name for inner in path.iterdir()] for path in _folders(folder)}
    return [path for path, names in held.items() if not names or not all(map(tried.fullmatch, names))]


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.endswith(".partial"))


def _read_stage(folder: Path, group: str, name: str, reader: JsonReader) -> StageRecord:
    if name in ("pretrain", "sft", "checkpoint"):
        return _read_checkpoint(folder, group, name, reader)
    if not folder.is_dir():
        return StageRecord(group=group, name=name, folder=folder, state="missing")
    places = [folder] if (folder / "layer.json").is_file() else _folders(folder)
    layers = [path for path in places if (path / "layer.json").is_file()]
    layer = reader.read(layers[0] / "layer.json") if layers else {}
    by_layer = {path: layer_stats(path, reader) for path in layers}
    stats = [shard for shards in by_layer.values() for shard in shards]
    counted = layers
    if name == "judge":  # judges share their samples: those of the one that is furthest count
        sizes = {path: sum(whole(shard.get("out")) for shard in by_layer[path]) for path in layers}
        counted = sorted(layers, key=sizes.__getitem__, reverse=True)[:1]
    samples = [shard for path in counted for shard in by_layer[path]]
    base = layer.get("base")
    expected = len(base) if isinstance(base, list) and len(layers) == 1 else None
    summary = reader.read(folder / done_file(name))
    return StageRecord(
        group=group,
        name=name,
        folder=folder,
        state=_state(name, folder),
        num_shards=len(samples),
        num_expected=expected,
        num_in=sum(whole(shard.get("in")) for shard in samples),
        num_out=sum(whole(shard.get("out")) for shard in samples),
        num_rejected=sum(whole(shard.get("rejected")) for shard in samples),
        num_tokens=sum(whole(shard.get("tokens")) for shard in stats),
        seconds=_seconds(summary, stats),
        num_devices=max(1, whole(_cost(summary).get("num_devices"))),
        dropped=_dropped(samples),
        rejects={reason: lines for reason, (lines, _) in _rejects(counted, reader).items()},
        manifest=reader.read(folder / "manifest.json"),
        layer=layer,
        summary=summary,
        finished=_newest(folder),
    )


def _read_checkpoint(folder: Path, group: str, name: str, reader: JsonReader) -> StageRecord:
    """A training stage, from the vila2.json in its checkpoint; it is written whole or not at all."""
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.partial").is_dir()
        return StageRecord(group=group, name=name, folder=folder, state="partial" if partial else "missing")
    summary = reader.read(folder / "vila2.json")
    phases = tables_of(summary.get("phases"))
    rejects = _rejects([folder], reader)
    num_samples = sum(whole(phase.get("num_samples")) for phase in phases)
    num_rejected = sum(count for _, count in rejects.values())
    return StageRecord(
        group=group,
        name=name,
        folder=folder,
        state=_state("specialize" if name == "checkpoint" else name, folder),
        num_in=num_samples + num_rejected,
        num_out=num_samples,
        num_rejected=num_rejected,
        num_tokens=sum(whole(phase.get("num_tokens")) for phase in phases),
        seconds=real(summary.get("seconds")),
        dropped={reason: count for reason, (_, count) in rejects.items()},
        rejects={reason: lines for reason, (lines, _) in rejects.items()},
        summary=summary,
        finished=_newest(folder),
    )


def layer_stats(folder: Path, reader: JsonReader) -> list[dict[str, Any]]:
    """The stats of a layer's finished shards."""
    return [
        reader.read(path)
        for path in sorted(folder.glob("*.stats.json"))
        if layer_tar(folder, path.name.removesuffix(".stats.json")).is_file()
    ]


def _state(name: str, folder: Path) -> State:
    """How far a stage is, whose folder is there."""
    try:
        return "done" if is_complete(name, folder) else "partial"
    except (DataError, AttributeError, KeyError, TypeError):  # damaged, as the notes say, or of another version
        return "partial"


def _cost(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    cost = summary.get("cost")
    return cost if isinstance(cost, dict) else summary


def _seconds(summary: Mapping[str, Any], stats: list[dict[str, Any]]) -> float | None:
    """Seconds of the whole stage; the sum over its shards where the stage names none."""
    written = real(_cost(summary).get("seconds"))
    if written is not None:
        return written
    times = [seconds for shard in stats if (seconds := real(shard.get("seconds"))) is not None]
    return sum(times) if times else None


def _dropped(stats: list[dict[str, Any]]) -> dict[str, int]:
    dropped: Counter[str] = Counter()
    for shard in stats:
        for reason, count in table_of(shard.get("dropped")).items():
            dropped[visible(reason, 60)] += whole(count)
    return dict(dropped)


def _rejects(folders: list[Path], reader: JsonReader) -> dict[str, tuple[tuple[str, ...], int]]:
    """By reason: the first rejects as `shard/key: error`, and how many there are."""
    shown: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for folder in folders:
        paths = [folder / "rejects.jsonl"]
        if not paths[0].is_file():
            paths = sorted(folder.glob("*.rejects.jsonl"))
        for reject in (line for path in paths for line in reader.lines(path)):
            reason = visible(reject.get("reason", "unknown"), 60)
            lines = shown.setdefault(reason, [])
            counts[reason] += 1
            if len(lines) < MAX_REJECTS:
                where = f"{reject.get('shard', '')}/{reject.get('key', '')}"
                lines.append(f"{visible(where, 120)}: {visible(reject.get('error', ''), 300)}")
    return {reason: (tuple(lines), counts[reason]) for reason, lines in shown.items()}


def _newest(folder: Path) -> float | None:
    """When the newest file of the stage was written, in seconds since 1970."""
    times = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a running stage renames its files
            if path.is_file():
                times.append(path.stat().st_mtime)
    return max(times, default=None)
