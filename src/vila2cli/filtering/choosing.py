"""A filter that needs no model and no pixels: each shard read once, decided on by itself and written.

Several shards are read at the same time, each in a process of its own where that can be: what takes the time is
Python, and the digests of the pictures.
"""

import multiprocessing
import signal
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from os import getpid
from pathlib import Path
from time import perf_counter
from typing import Any

from vila2cli import __version__
from vila2cli.errors import DataError, DataWarning
from vila2cli.filtering.deciding import HeldOut
from vila2cli.filtering.job import FilterJob
from vila2cli.filtering.layer import decide_again
from vila2cli.filtering.measure import FILTERED_BEFORE
from vila2cli.filtering.metadata import Chooser, Chosen, below_top
from vila2cli.filtering.outcome import FilterSummary, summarise
from vila2cli.ranks import num_cores
from vila2cli.run.changes import difference
from vila2cli.run.child import end_with
from vila2cli.run.folder import claim, read_manifest, write_json
from vila2cli.run.locks import lock
from vila2cli.run.progress import Progress
from vila2cli.run.splitting import Unfinished
from vila2cli.run.stopping import Stop, interruptible
from vila2cli.run.workers import Worker, select
from vila2cli.settings import FilterSettings
from vila2cli.shards import (
    LayerWriter,
    Shard,
    Unreadable,
    gather_rejects,
    open_layer,
    read_shard,
    to_made_from,
    write_layer_shard,
)
from vila2cli.shards.fingerprints import Fingerprint
from vila2cli.shards.sample import FILTER, Annotation, Reject, Sample, is_kept
from vila2cli.text.compose import filter_inputs

_WAITING = 2
"""Processes more than there are cores: so many wait for a disk that is to have written what it was given."""


def choose(job: FilterJob, worker: Worker) -> FilterSummary | Unfinished:
    """Write the worker's part of the filter layer.

    Decisions by other settings are replaced, unless several workers share the work. Raises RecipeError where
    the folder was made with others, Interrupted after a signal, and DataError for shards that cannot be read,
    once the others are written.
    """
    inputs = choosing_inputs(job)
    with interruptible() as stop:
        stored = read_manifest(job.out_dir)
        if worker.count == 1 and stored is not None:
            was, now = stored.inputs.get("settings"), inputs["settings"]
            same = all(stored.inputs.get(name) == inputs.get(name) for name in ("chosen_by", "first"))
            if same and was != now:
                with lock(job.out_dir, worker):
                    decide_again(job, job.out_dir, difference({"settings": was}, {"settings": now}))
        manifest = claim(job.out_dir, inputs, job.recipe)
        with lock(job.out_dir, worker):
            layer = open_layer(
                job.out_dir,
                layer=FILTER,
                source=job.source,
                manifest={"digest": manifest.digest},
                may_grow=True,
                is_packed=job.recipe.data.compress_layers,
            )
            unreadable = _write_missing(job, layer, worker, stop)
        gather_rejects(job.out_dir, job.names)
        num_done = len(layer.done() & set(job.names))
        unreadable.check()
        if num_done < len(job.names):
            return Unfinished(done="decided", num_shards=len(job.names), num_shards_done=num_done)
        with layer.alone():
            summary = summarise(job, job.out_dir, [], HeldOut(), scores_dir=job.out_dir)
            write_json(job.out_dir / "summary.json", summary.to_json())
        return replace(summary, decided=True)


def choosing_inputs(job: FilterJob) -> dict[str, Any]:
    """Everything that decides which samples of a shard are kept, whatever other shards there are."""
    return {
        "stage": FILTER,
        "chosen_by": "metadata",
        "settings": job.settings.deciding(),
        **filter_inputs(job.source.layers),
        **job.source.limit(),
    }


def _write_missing(job: FilterJob, layer: LayerWriter, worker: Worker, stop: Stop) -> Unreadable:
    with stop.at_once():
        missing = layer.missing(select(job.source.shards, worker))
    write = partial(_write_shard, _Target(layer.folder, job.settings, job.round, layer.is_packed))
    unreadable = Unreadable()
    with Progress(FILTER, len(missing), "shards", job.log_path) as progress, _apart(write, missing) as written:
        for outcome in stop.each(written):
            for note in outcome.notes:
                warnings.warn(note, DataWarning, stacklevel=2)
            if outcome.error:
                progress.note(f"{outcome.error}; going on with the next shard")
                unreadable.fail(DataError(outcome.error))
                if unreadable.are_too_many:
                    break
            else:
                unreadable.succeed()
            progress.advance()
    return unreadable


@dataclass(frozen=True, slots=True)
class _Target:
    """The layer as a process that writes a shard of it has to know it: not all the shards it is over."""

    folder: Path
    settings: FilterSettings
    round: int | None
    is_packed: bool


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a shard: why it could not be read, "" where it was, and what was odd about it."""

    error: str = ""
    notes: Sequence[str] = ()


@contextmanager
def _apart(write: "partial[_Outcome]", shards: Sequence[Shard]) -> Iterator[Iterable[_Outcome]]:
    """The outcomes of shards as they are written, each in one of several processes where those can be had.

    They are forks, which start at once: where torch or another thread is there, this process does the work.
    """
    count = min(num_cores() + _WAITING, len(shards)) if num_cores() > 1 else 1
    can_fork = sys.platform == "linux" and "torch" not in sys.modules and threading.active_count() == 1
    if count < 2 or not can_fork or multiprocessing.active_children():
        yield map(write, shards)
        return
    fork = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(count, fork, initializer=_begin, initargs=(getpid(),))
    try:
        yield (future.result() for future in as_completed([pool.submit(write, shard) for shard in shards]))
    except BrokenProcessPool:
        raise DataError(
            "a process that read shards was killed, perhaps for its memory; what is written stays, and the "
            "same command goes on"
        ) from None
    except BaseException:  # what they have begun is thrown away
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(parent: int) -> None:
    """Be one of the processes: Ctrl-C is for the parent, with which this one ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    end_with(parent)


def _write_shard(target: _Target, shard: Shard) -> _Outcome:
    notes: list[str] = []
    try:
        decided = _decide(shard, target.settings, lambda text: notes.append(f"{shard.url}: {text}"))
        _write(target, shard, decided)
    except DataError as error:
        return _Outcome(str(error), notes)
    return _Outcome(notes=notes)


@dataclass(slots=True)
class _Decided:
    """The samples of a shard: SHA-256 of the picture and why each is not kept, by key."""

    reasons: dict[str, tuple[str, Chosen]]
    rejects: list[Reject]
    made_from: dict[str, Any]
    seconds: float


def _decide(shard: Shard, settings: FilterSettings, on_note: Any) -> _Decided:
    start_s = perf_counter()
    chooser, below = Chooser(settings), below_top(settings)
    rejects: list[Reject] = []
    fingerprints: dict[str, Fingerprint] = {}
    chosen: dict[str, tuple[str, Chosen]] = {}
    for sample in read_shard(shard, on_reject=rejects.append, on_note=on_note, fingerprints=fingerprints):
        try:
            chosen[sample.key] = sample.image_sha256, _chosen(sample, chooser)
        except DataError as error:  # what has no annotation would count as kept
            reason = "several-images" if len(sample.images) > 1 else "bad-image"
            chosen[sample.key] = sample.image_sha256, Chosen([reason], error=str(error))
    if settings.top.field:
        kept = [(-one.top, key) for key, (_, one) in chosen.items() if not one.reasons and one.top is not None]
        for _, key in sorted(kept)[int(settings.top.share * len(kept) + 0.5) :]:
            sha256, one = chosen[key]
            chosen[key] = sha256, Chosen([below], one.top)
    return _Decided(chosen, rejects, to_made_from(shard, fingerprints), perf_counter() - start_s)


def _chosen(sample: Sample, chooser: Chooser) -> Chosen:
    if not is_kept(sample):
        return Chosen([FILTERED_BEFORE])
    if chooser.reads_picture and len(sample.images) > 1:
        raise DataError(f"the sample has {len(sample.images)} images, and the conditions are about one")
    return chooser(sample)


def _write(target: _Target, shard: Shard, decided: _Decided) -> None:
    dropped, rejects = Counter(reject.reason for reject in decided.rejects), list(decided.rejects)
    blank = Annotation(layer=FILTER, kind="score", round=target.round, tool_version=__version__).to_json()
    annotations = {}
    for key in sorted(decided.reasons):
        sha256, chosen = decided.reasons[key]
        scores: dict[str, Any] = {"keep": not chosen.reasons, "reasons": list(chosen.reasons)}
        if chosen.top is not None:
            scores["top"] = chosen.top
        if chosen.reasons:
            dropped[chosen.reasons[0]] += 1
        if chosen.error:
            scores |= {"unusable": chosen.reasons[0], "error": chosen.error}
            rejects.append(Reject(shard.name, key, chosen.reasons[0], chosen.error))
        annotations[key] = {**blank, "image_sha256": sha256, "scores": scores}
    num_in, seconds = len(annotations) + len(decided.rejects), round(decided.seconds, 3)
    timed = {"answered": num_in, "tokens": 0, "seconds": seconds, "device_seconds": seconds}
    write_layer_shard(
        *(target.folder, shard.name, annotations, rejects, dropped),
        {**timed, "made_from": decided.made_from},
        layer=FILTER,
        is_packed=target.is_packed,
        num_in=num_in,
    )
