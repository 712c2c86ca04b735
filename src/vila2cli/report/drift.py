"""Drift across rounds: how wording narrows, what is invented or left out, and which errors are handed down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vila2cli.report.all_captions import ALT, ImageCaptions
from vila2cli.report.captions import vocabulary_of
from vila2cli.report.wording import NOT_RUN
from vila2cli.score.caption import Fact, contradicted_facts, stated_facts, true_facts
from vila2cli.score.scorer import Vocabulary

COLUMNS = ("Words", "Vocabulary", "Distinct 1-grams", "Distinct 2-grams", "Distinct 3-grams")
FACT_COLUMNS = ("Hallucinated", "Omitted", "Inherited", "Put right")


@dataclass(frozen=True, slots=True)
class DriftRow:
    label: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DriftTable:
    """A row for the alt-text and for every round, all over the same images."""

    columns: tuple[str, ...]
    rows: tuple[DriftRow, ...]
    note: str


def drift_table(images: Sequence[ImageCaptions], rounds: Sequence[int]) -> DriftTable:
    """What of the captions changes from round to round, over the images that every round captions.

    With ground truth also: of the facts stated the share that contradicts the picture, of those true the
    share left out, of the contradicted ones the share that the round before stated too, and of the round
    before's the share that is gone.
    """
    columns = [ALT, *rounds]
    common = [one for one in images if all(one.texts.get(number) for number in columns)]
    if not common:
        columns = list(rounds)
        common = [one for one in images if all(one.texts.get(number) for number in columns)]
    if not common or not rounds:
        return DriftTable((), (), "No image has a caption of every round yet.")
    vocabulary = vocabulary_of([one.scene for one in common])
    rows, before = [], list[_Facts]()
    for number in columns:
        cells = _wording([one.texts[number].lower().split() for one in common])
        if vocabulary:
            facts = [_Facts.of(one.texts[number], one.scene, vocabulary) for one in common if one.scene]
            cells, before = cells + _fact_cells(facts, before), facts
        rows.append(DriftRow("alt-text" if number == ALT else f"round {number}", cells))
    note = f"Over the {len(common):,} images that every row captions."
    names = COLUMNS + (FACT_COLUMNS if vocabulary else ())
    if vocabulary:
        note += (
            " Hallucinated are the stated facts that contradict the picture, omitted the true ones not stated. "
            "Inherited is the share of a row's hallucinated facts that the row above states too, put right the "
            "share of the row above's that this one no longer states."
        )
    else:
        note += " Without ground truth what is invented or left out cannot be counted."
    return DriftTable(names, tuple(rows), note)


def _wording(captions: Sequence[Sequence[str]]) -> tuple[str, ...]:
    num_words = sum(map(len, captions))
    shares = []
    for n in (1, 2, 3):
        grams = [tuple(words[i : i + n]) for words in captions for i in range(len(words) - n + 1)]
        shares.append(_percent(len(set(grams)), len(grams)))
    size = len({word for words in captions for word in words})
    return (f"{num_words / len(captions):.1f}", f"{size:,}", *shares)


@dataclass(frozen=True, slots=True)
class _Facts:
    """The facts of one caption: those stated, those of them that contradict the picture, those true."""

    stated: set[Fact]
    wrong: set[Fact]
    true: set[Fact]

    @classmethod
    def of(cls, text: str, scene: Mapping[str, Any], vocabulary: Vocabulary) -> "_Facts":
        stated, true = stated_facts(text, vocabulary), true_facts(scene)
        return cls(stated, contradicted_facts(stated, true), true)


def _fact_cells(now: Sequence[_Facts], before: Sequence[_Facts]) -> tuple[str, ...]:
    """The cells of a round; `before` is empty for the first row."""
    num_wrong = sum(len(one.wrong) for one in now)
    num_missed = sum(len(one.true - one.stated) for one in now)
    invented = _percent(num_wrong, sum(len(one.stated) for one in now))
    omitted = _percent(num_missed, sum(len(one.true) for one in now))
    if not before:
        return invented, omitted, NOT_RUN, NOT_RUN
    num_before = sum(len(one.wrong) for one in before)
    num_kept = sum(len(one.wrong & old.wrong) for one, old in zip(now, before, strict=True))
    return invented, omitted, _percent(num_kept, num_wrong), _percent(num_before - num_kept, num_before)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else NOT_RUN
