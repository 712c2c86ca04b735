"""Shards through an engine into a layer of scores, on which a filter decides later.

Samples of later shards are scored while results of earlier ones are still out; a shard is written
when its last result is back.
"""

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING

from vila2cli.ask.feed import ahead
from vila2cli.ask.meter import Meter
from vila2cli.engine import Engine, ScoreRequest, ScoreResult
from vila2cli.errors import DataError
from vila2cli.filtering.measure import Measure, Measured
from vila2cli.filtering.perplexity import Score, image_gain, perplexity
from vila2cli.run.progress import Progress
from vila2cli.run.stopping import Stop
from vila2cli.shards import LayerWriter, Shard, ShardWriter, Unreadable
from vila2cli.shards.sample import Annotation, Sample, Turn

if TYPE_CHECKING:
    from vila2cli.model.dual_encoder import DualEncoder

LAYER = "filter-scores"
_ENCODER_BATCH = 32
_NUM_THREADS = min(8, os.cpu_count() or 1)
_DIGITS = 6  # of a cosine


@dataclass(slots=True)
class _OpenShard:
    """A shard with results still out."""

    writer: ShardWriter
    num_pending: int = 0
    is_read: bool = False
    is_broken: bool = False


@dataclass(slots=True)
class _Pending:
    """A sample whose results are not all back; `left` counts them, `logprobs` are those of its caption."""

    shard: str
    sample: Sample
    measured: Measured
    left: int = 0
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What is computed for every sample, and by whom; `blank` says where the scores come from.

    An engine is needed for the two perplexities, which condition on `prompt`, an encoder for similarity.
    """

    measure: Measure
    scores: Sequence[Score]
    blank: Annotation
    prompt: str = ""
    engine: Engine | None = None
    encoder: "DualEncoder | None" = None


class ShardScorer:
    """Scores shards; `run` returns when every one of them is written."""

    def __init__(self, scoring: Scoring, layer: LayerWriter, *, stop: Stop, progress: Progress) -> None:
        self._scoring, self._layer = scoring, layer
        self._stop, self._progress = stop, progress
        self._open: dict[str, _OpenShard] = {}
        self._pending: dict[str, _Pending] = {}
        self._num_notes = 0
        self._meter = Meter(scoring.engine)
        self._unreadable = Unreadable()

    def run(self, shards: Sequence[Shard]) -> None:
        """Score the shards; raises Interrupted after a signal, DataError for damaged shards.

        A damaged shard is given up, and told of when the others are done. Whatever stops the work, shards
        written by then stay and no other leaves a trace.
        """
        self._meter = Meter(self._scoring.engine)
        self._show_notes()
        requests = self._requests(shards)
        engine = self._scoring.engine
        try:
            # Without an engine there are no requests, and reading on to their end is all there is to do.
            for result in engine.score(requests) if engine else map(_unasked, requests):
                self._stop.check()
                self._take(result)
                self._show_notes()
        finally:
            for shard in self._open.values():
                shard.writer.abort()
            self._open.clear()
        self._unreadable.check()

    def _requests(self, shards: Sequence[Shard]) -> Iterator[ScoreRequest]:
        pending_samples = self._measured(self._samples(shards))
        if self._scoring.encoder:
            pending_samples = _with_similarities(pending_samples, self._scoring.encoder)
        for pending in pending_samples:
            self._stop.check()
            requests = self._requests_of(pending)
            pending.left, pending.measured.image = len(requests), None
            if not requests:
                self._finish(pending)
            for request in requests:
                self._pending[request.id] = pending
                yield request

    def _samples(self, shards: Sequence[Shard]) -> Iterator[tuple[str, Sample]]:
        for shard in shards:
            opened = self._open[shard.name] = _OpenShard(self._layer.shard(shard))
            try:
                for sample in self._stop.each(opened.writer.samples()):
                    opened.num_pending += 1
                    yield shard.name, sample
                self._unreadable.succeed()
            except DataError as error:
                self._progress.note(f"{error}; going on with the next shard")
                opened.is_broken = True
                self._unreadable.fail(error)
            opened.is_read = True
            self._close_if_done(shard.name)
            if self._unreadable.are_too_many:
                return

    def _measured(self, samples: Iterator[tuple[str, Sample]]) -> Iterator[_Pending]:
        """Samples in their order, measured by threads before they are due."""
        feed = ahead(
            lambda one: self._scoring.measure(one[1]),
            samples,
            num_workers=_NUM_THREADS,
            window=4 * _NUM_THREADS,
        )
        for (shard, sample), future in feed:
            yield _Pending(shard, sample, future.result())

    def _requests_of(self, pending: _Pending) -> list[ScoreRequest]:
        measured = pending.measured
        if not measured.is_usable:
            return []
        assert measured.image is not None
        images = {"perplexity": (measured.image,), "text-perplexity": ()}
        return [
            ScoreRequest(
                id=f"{pending.shard}\0{pending.sample.key}\0{score}",
                messages=(Turn("user", self._scoring.prompt),),
                images=images[score],
                text=measured.caption,
                group=pending.shard,
            )
            for score in self._scoring.scores
            if score in images
        ]

    def _take(self, result: ScoreResult) -> None:
        pending = self._pending.pop(result.id)
        score = result.id.rpartition("\0")[2]
        if problem := _problem(result):
            pending.measured.reject("engine-error", problem)
        else:
            pending.measured.scores[score.replace("-", "_")] = perplexity(result.token_logprobs)
            if score == "perplexity" or not pending.logprobs:
                pending.logprobs = result.token_logprobs
        pending.left -= 1
        if pending.left == 0:
            self._finish(pending)

    def _finish(self, pending: _Pending) -> None:
        opened, scores = self._open[pending.shard], pending.measured.scores
        num_tokens = len(pending.logprobs)
        if "perplexity" in scores and "text_perplexity" in scores:
            scores["image_gain"] = image_gain(scores["perplexity"], scores["text_perplexity"])
        if num_tokens:
            scores["num_tokens"] = num_tokens
        annotation = dataclasses.replace(
            self._scoring.blank,
            scores=scores,
            num_tokens=num_tokens or None,
            logprob_mean=math.fsum(pending.logprobs) / num_tokens if num_tokens else None,
        )
        opened.writer.annotate(pending.sample, annotation)
        opened.writer.count(tokens=num_tokens, answered=int(pending.measured.is_usable))
        opened.num_pending -= 1
        self._progress.advance()
        self._close_if_done(pending.shard)

    def _close_if_done(self, name: str) -> None:
        opened = self._open[name]
        if not opened.is_read or opened.num_pending:
            return
        del self._open[name]
        if opened.is_broken:
            opened.writer.abort()
            return
        opened.writer.count(**self._meter.read())
        opened.writer.close()

    def _show_notes(self) -> None:
        notes = self._scoring.engine.notes if self._scoring.engine else []
        for note in notes[self._num_notes :]:
            self._progress.note(note)
        self._num_notes = len(notes)


def _problem(result: ScoreResult) -> str | None:
    """Why there is no perplexity, None when there is one."""
    if result.error is not None:
        return result.error
    if not result.token_logprobs:
        return "the caption has no tokens"
    odd = next((one for one in result.token_logprobs if not math.isfinite(one)), None)
    return None if odd is None else f"the model gave a token the log-probability {odd}"


def _unasked(request: ScoreRequest) -> ScoreResult:
    raise AssertionError(f"{request.id!r} needs an engine, and none was opened")


def _with_similarities(samples: Iterable[_Pending], encoder: "DualEncoder") -> Iterator[_Pending]:
    """Samples in their order, through the encoder in batches that hold one shard's only."""
    for _, of_shard in groupby(samples, key=lambda pending: pending.shard):
        while batch := list(islice(of_shard, _ENCODER_BATCH)):
            _add_similarities([one.measured for one in batch if one.measured.is_usable], encoder)
            yield from batch


def _add_similarities(batch: Sequence[Measured], encoder: "DualEncoder") -> None:
    """The cosines of the sentences of each caption with its image: mean, lowest, and how many there are."""
    pieces = [encoder.pieces(one.caption) for one in batch]
    images = [one.image for one in batch if one.image is not None]
    found = encoder.similarities(images, [one.texts for one in pieces]) if batch else []
    for measured, piece, cosines in zip(batch, pieces, found, strict=True):
        if not all(map(math.isfinite, cosines)):
            measured.reject("engine-error", "the similarity model gave no number")
            continue
        measured.scores |= {
            "similarity": round(math.fsum(cosines) / len(cosines), _DIGITS),
            "sentence_similarity_min": round(min(cosines), _DIGITS),
            "num_sentences": len(cosines),
            "num_split_sentences": piece.num_split,
        }
