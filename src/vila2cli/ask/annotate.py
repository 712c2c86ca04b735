"""Filling layers in one pass, by the one engine that is open here or by replicas, with one display and log."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vila2cli.ask.fill import Annotator, Part, Together
from vila2cli.ask.replicas import Replicas
from vila2cli.engine import Engine
from vila2cli.run.cost import waits_line
from vila2cli.run.progress import Progress
from vila2cli.run.stopping import Stop
from vila2cli.shards import expected_samples, folder_figures


def annotate(
    engine: Engine | Replicas | None,
    parts: Sequence[Part],
    *,
    title: str,
    stop: Stop,
    max_reject_rate: float = 1.0,
    together: Together | None = None,
    unit: str = "images",
    note: str = "",
    log_path: Path | None = None,
) -> None:
    """Fill layers in one pass, showing how far it is, and log it in each layer or in `log_path`.

    Raises as `Annotator.run` does.
    """
    counts = [_expected(part) for part in parts]
    totals = [number for number, _ in counts if number is not None]
    with Progress(
        title,
        sum(totals) if len(totals) == len(counts) else None,
        unit,
        log_path or [part.layer.folder / "log.jsonl" for part in parts],
        is_estimate=not all(is_exact for _, is_exact in counts),
    ) as progress:
        if note:
            progress.note(note)
        if isinstance(engine, Replicas):
            engine.fill(parts, progress=progress, max_reject_rate=max_reject_rate, together=together)
        else:
            stop.on_beat = progress.beat
            try:
                Annotator(
                    engine,
                    parts,
                    stop=stop,
                    progress=progress,
                    max_reject_rate=max_reject_rate,
                    together=together,
                ).run()
            finally:
                stop.on_beat = None
        if engine is not None:
            progress.note(waits_line(_figures(parts)))


def _expected(part: Part) -> tuple[int | None, bool]:
    """How many samples of a part are counted, and whether that is exact."""
    if part.counted is None:
        return expected_samples(part.shards)
    return sum(len(part.counted.get(shard.name, ())) for shard in part.shards), True


def _figures(parts: Sequence[Part]) -> Counter[str]:
    """The numbers in the stats files of the shards that were written."""
    total: Counter[str] = Counter()
    for part in parts:
        found = folder_figures(part.layer.folder, [shard.name for shard in part.shards])
        total.update({name: value for name, value in found.items() if not isinstance(value, dict)})
    return total
