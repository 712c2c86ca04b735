"""What is trained in which step: a pure function of the samples' lengths, the settings and the seed.

The samples of a step do not depend on the number of processes; which process has which of them does.
Every process makes the same plan, so all take equally many steps and equally many forward passes in
each, and a number of steps says all there is to know of where a training stands.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np

from vila2cli.errors import RecipeError
from vila2cli.settings import SourceSettings, TrainSettings
from vila2cli.train.data import Ints, Lengths
from vila2cli.train.packing import Sequences, pack

_KEPT_EPOCHS = 16
"""Of how many sources and epochs the rows are kept while passes are planned."""

MicroBatch = tuple[tuple[int, ...], ...]
"""Sequences of one forward pass, each the numbers of the samples in it; several only when packed."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: its samples over all processes, and the forward passes of one of them.

    An empty micro-batch stands where a process has nothing left to do in a forward pass of the others.
    """

    samples: tuple[int, ...]
    micro_batches: tuple[MicroBatch, ...]


@dataclass(frozen=True, slots=True)
class PassCounts:
    """How many samples of each source one pass takes."""

    counts: tuple[int, ...]
    is_whole: bool  # every sample once


def plan_pass(lengths: Lengths, names: Sequence[str], settings: TrainSettings) -> PassCounts:
    """How much of every source one pass takes, from weights, caps and the share of text.

    `mixture.NAME.max_samples`, `max_tokens` and `epochs` bound each source; sources with a weight
    then keep the proportions of their weights, as many as the scarcest allows; last, `text_share` lowers
    the text-only sources, or the others, until the tokens are in that proportion.
    """
    mixture, text_share = settings.blend()
    mixes = [mixture.get(name, SourceSettings()) for name in names]
    rows = lengths.rows(0)
    source, tokens, images = lengths.source[rows], lengths.tokens[rows], lengths.images[rows]
    sizes = [int(np.sum(source == i)) for i in range(len(names))]
    means = [_mean(tokens[source == i]) for i in range(len(names))]
    counts = [_bounded(size, mean, mix) for size, mean, mix in zip(sizes, means, mixes, strict=True)]
    weighted = [i for i, mix in enumerate(mixes) if mix.weight and sizes[i]]
    scarcest = min((counts[i] / mixes[i].weight for i in weighted), default=0.0)
    for i in weighted:
        counts[i] = min(counts[i], round(mixes[i].weight * scarcest))
    if text_share:
        is_text = [not images[source == i].any() for i in range(len(names))]
        counts = _with_text_share(counts, means, is_text, text_share)
    return PassCounts(tuple(counts), counts == sizes)


def _mean(values: Ints) -> float:
    return float(values.mean()) if len(values) else 0.0


def _bounded(size: int, mean_tokens: float, mix: SourceSettings) -> int:
    count = round(size * mix.epochs)
    if mix.max_samples:
        count = min(count, mix.max_samples)
    if mix.max_tokens and mean_tokens:
        count = min(count, int(mix.max_tokens / mean_tokens))
    return count


def _with_text_share(counts: list[int], means: list[float], is_text: list[bool], share: float) -> list[int]:
    """Lower the text-only sources, or all others, so that text has its share of the tokens."""
    sources = list(zip(counts, means, is_text, strict=True))
    tokens = [sum(count * mean for count, mean, text in sources if text == kind) for kind in (0, 1)]
    if not all(tokens):
        raise RecipeError(
            f"text_share = {share} needs sources of text without images and others; "
            f"there are {'only such' if tokens[1] else 'no such'} sources"
        )
    wanted = share / (1 - share) * tokens[0] / tokens[1]  # text for the others' tokens
    scales = (1.0, wanted) if wanted <= 1 else (1 / wanted, 1.0)
    return [round(count * scales[text]) for count, text in zip(counts, is_text, strict=True)]


def expected(
    lengths: Lengths, names: Sequence[str], one: PassCounts, epochs: float
) -> dict[str, dict[str, float]]:
    """Samples, tokens and images of each source over all passes, as means of the source tell."""
    figures: dict[str, dict[str, float]] = {}
    rows = lengths.rows(0)
    for i, name in enumerate(names):
        here = rows[lengths.source[rows] == i]
        samples = one.counts[i] * epochs
        figures[name] = {
            "samples": round(samples),
            "tokens": round(samples * _mean(lengths.tokens[here])),
            "images": round(samples * _mean(lengths.images[here])),
        }
    return figures


def orders(
    lengths: Lengths, names: Sequence[str], one: PassCounts, *, epochs: float, seed: int
) -> Iterator[list[int]]:
    """The samples of each pass in the order they are trained in; the last pass may be a part of one.

    Where a sample comes several times in a pass, each time is an epoch for what is drawn.
    """

    @functools.lru_cache(_KEPT_EPOCHS)
    def rows_of(source: int, epoch: int) -> Ints:
        rows = lengths.rows(epoch)
        own: Ints = rows[lengths.source[rows] == source]
        return own

    for epoch in range(math.ceil(epochs)):
        if one.is_whole:
            order = lengths.rows(epoch).tolist()
        else:
            sizes = [len(rows_of(i, 0)) for i in range(len(names))]
            drawn = zip(range(len(names)), names, sizes, one.counts, strict=True)
            order = [
                int(rows_of(number, copy)[i])
                for number, name, size, count in drawn
                for copy, i in _drawn(name, size, count, epoch, seed)
            ]
        Random(f"order {seed} {epoch}").shuffle(order)
        yield order[: round(len(order) * min(1.0, epochs - epoch))]


def drawn_captions(
    lengths: Lengths, names: Sequence[str], one: PassCounts, *, epochs: float, seed: int
) -> dict[str, dict[str, Any]]:
    """What the shares of captions came to in all passes, by source of samples, where captions are drawn."""
    if lengths.drawn is None:
        return {}
    rows = np.concatenate(
        [np.asarray(order, np.int64) for order in orders(lengths, names, one, epochs=epochs, seed=seed)]
    )
    return {names[number]: lengths.drawn.figures(number, rows) for number in lengths.drawn.choices}


def _drawn(name: str, size: int, count: int, epoch: int, seed: int) -> Iterator[tuple[int, int]]:
    """The samples that a pass takes of a source, and of which copy of it.

    Passes go on where the one before ended. They walk through shuffled copies of the source, so that none comes
    again before all have come.
    """
    place = count * epoch
    shuffled: list[int] = []
    for position in range(place, place + count):
        if not shuffled or position % size == 0:
            shuffled = list(range(size))
            Random(f"mixture {seed} {name} {position // size}").shuffle(shuffled)
        yield position // size, shuffled[position % size]


def num_steps(one: PassCounts, *, batch_size: int, epochs: float) -> int:
    """How many optimizer steps a plan has."""
    passes = [round(sum(one.counts) * min(1.0, epochs - epoch)) for epoch in range(math.ceil(epochs))]
    return sum(math.ceil(size / batch_size) for size in passes)


def plan_steps(
    lengths: Lengths,
    names: Sequence[str],
    settings: TrainSettings,
    *,
    seed: int,
    rank: int = 0,
    num_ranks: int = 1,
) -> Iterator[Step]:
    """The steps of a phase in order, with the forward passes of process `rank`."""
    one = plan_pass(lengths, names, settings)
    for order in orders(lengths, names, one, epochs=settings.epochs, seed=seed):
        for start in range(0, len(order), settings.batch_size):
            samples = order[start : start + settings.batch_size]
            sequences = _sequences(samples, lengths, settings, num_ranks)
            yield Step(tuple(samples), _share(sequences, lengths, settings, rank, num_ranks))


def _sequences(samples: Sequence[int], lengths: Lengths, settings: TrainSettings, num_ranks: int) -> Sequences:
    if not settings.packing:
        return [[i] for i in samples]
    packed = pack(
        lengths.tokens[samples].tolist(),
        lengths.tiles[samples].tolist(),
        max_tokens=settings.pack_length or settings.max_length,
        max_images=settings.pack_images,
        multiple=num_ranks,
    )
    return [[samples[i] for i in members] for members in packed]


def _share(
    sequences: Sequences, lengths: Lengths, settings: TrainSettings, rank: int, num_ranks: int
) -> tuple[MicroBatch, ...]:
    """The forward passes of one process: every n-th of those of all, which are as many for each."""
    parts = cut(sequences, lengths.tokens, settings.micro_batch_size, num_ranks)
    parts += [[]] * (-len(parts) % num_ranks)
    return tuple(tuple(tuple(members) for members in part) for part in parts[rank::num_ranks])


def cut(sequences: Sequences, tokens: Ints, size: int, num_ranks: int = 1) -> list[Sequences]:
    """A step's sequences in parts of at most `size` of about equal length; size 0 makes one part a process."""
    if num_ranks == 1 and (not size or size >= len(sequences)):
        return [sequences]
    ordered = sorted(sequences, key=lambda members: int(tokens[members].sum()))
    if num_ranks == 1:
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]
    rounds = math.ceil(len(ordered) / (size * num_ranks)) if size else 1
    num_parts = min(rounds * num_ranks, len(ordered))
    bounds = [len(ordered) * part // num_parts for part in range(num_parts + 1)]
    return [ordered[start:stop] for start, stop in pairwise(bounds)]
