"""Drift across rounds: how wording narrows, what is invented or left out, and which errors are handed down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vila2cli.report.all_captions import ALT, ImageCaptions
from vila2cli.report.captions import vocabulary_of
from vila2cli.report.wording import NOT_RUN, number
from vila2cli.score.caption import Fact, contradicted_facts, stated_facts, true_facts
from vila2cli.score.scorer import Vocabulary
from vila2cli.score.stats import Columns, FloatArray, columns_of, estimate, interval_of, ratio

WORDS = "Words"
COUNTS = ("Vocabulary", "Distinct 1-grams", "Distinct 2-grams", "Distinct 3-grams")
SHARES = {
    "Hallucinated": ("wrong", "stated"),
    "Omitted": ("missed", "true"),
    "Inherited": ("kept", "wrong"),
    "Put right": ("mended", "wrong before"),
}
"""The facts that a share is the ratio of: part and whole, each counted by image."""
COLUMNS = (WORDS, *COUNTS)
FACT_COLUMNS = tuple(SHARES)


@dataclass(frozen=True, slots=True)
class DriftCell:
    """A figure and, where it is a mean or share over images, its 95% interval."""

    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class DriftRow:
    label: str
    cells: tuple[DriftCell, ...]


@dataclass(frozen=True, slots=True)
class DriftTable:
    """A row for the alt-text and for every round, all over the same images."""

    columns: tuple[str, ...]
    rows: tuple[DriftRow, ...]
    note: str


def drift_table(
    images: Sequence[ImageCaptions], rounds: Sequence[int], *, num_bootstrap: int = 1000, seed: int = 0
) -> DriftTable:
    """What of the captions changes from round to round, over the images that every round captions.

    With ground truth also: of the facts stated the share that contradicts the picture, of those true the
    share left out, of the contradicted ones the share that the round before stated too, and of the round
    before's the share that is gone. Words and shares have bootstrap intervals over images.
    """
    columns = [ALT, *rounds]
    common = [one for one in images if all(one.texts.get(number) for number in columns)]
    if not common:
        columns = list(rounds)
        common = [one for one in images if all(one.texts.get(number) for number in columns)]
    if not common or not rounds:
        return DriftTable((), (), "No image has a caption of every round yet.")
    vocabulary = vocabulary_of([one.scene for one in common])
    counted = columns_of([_count(one, columns, vocabulary) for one in common])
    groups = [one.image_sha256 or one.key for one in common]
    cells = _interval_cells(counted, columns, groups, num_bootstrap=num_bootstrap, seed=seed)
    rows = []
    for column in columns:
        wording = _wording([one.texts[column].lower().split() for one in common])
        shares = [cells[column, name] for name in SHARES] if vocabulary else []
        label = "alt-text" if column == ALT else f"round {column}"
        rows.append(DriftRow(label, (cells[column, WORDS], *wording, *shares)))
    return DriftTable(
        COLUMNS + (FACT_COLUMNS if vocabulary else ()), tuple(rows), _note(len(common), vocabulary)
    )


def _note(num_images: int, vocabulary: Vocabulary | None) -> str:
    note = (
        f"Over the {num_images:,} images that every row captions; small print is the 95% interval over them. "
        "Vocabulary and distinct n-grams have none: they are no means over images, and images drawn twice by a "
        "bootstrap add no words."
    )
    if vocabulary is None:
        return f"{note} Without ground truth what is invented or left out cannot be counted."
    return (
        f"{note} Hallucinated are the stated facts that contradict the picture, omitted the true ones not "
        "stated. Inherited is the share of a row's hallucinated facts that the row above states too, put right "
        "the share of the row above's that this one no longer states."
    )


def _count(one: ImageCaptions, columns: Sequence[int], vocabulary: Vocabulary | None) -> dict[str, float]:
    """Words and facts of an image's captions, by column and name; without ground truth there are no facts."""
    counts: dict[str, float] = {}
    before: set[Fact] = set()
    for column in columns:
        text = one.texts[column]
        counts[f"{column} words"] = len(text.split())
        if vocabulary is None:
            continue
        stated, wrong, true = _facts(text, one.scene, vocabulary)
        kept = len(wrong & before)
        found = {
            "stated": len(stated),
            "wrong": len(wrong),
            "true": len(true),
            "missed": len(true - stated),
            "kept": kept,
            "mended": len(before) - kept,
            "wrong before": len(before),
        }
        counts |= {f"{column} {name}": count for name, count in found.items()}
        before = wrong
    return counts


def _facts(
    text: str, scene: Mapping[str, Any] | None, vocabulary: Vocabulary
) -> tuple[set[Fact], set[Fact], set[Fact]]:
    """The facts that a caption states, those of them that contradict the picture, and those that are true."""
    if not scene:
        return set(), set(), set()
    stated, true = stated_facts(text, vocabulary), true_facts(scene)
    return stated, contradicted_facts(stated, true), true


def _interval_cells(
    counted: Columns, columns: Sequence[int], groups: Sequence[str], *, num_bootstrap: int, seed: int
) -> dict[tuple[int, str], DriftCell]:
    """Words and shares of every row, all from one resampling of the images."""

    def metrics(totals: Columns) -> dict[str, FloatArray]:
        found = {f"{column} {WORDS}": ratio(totals[f"{column} words"], totals["n"]) for column in columns}
        for column in columns:
            for name, (part, whole) in SHARES.items():
                if f"{column} {whole}" in totals:
                    found[f"{column} {name}"] = ratio(totals[f"{column} {part}"], totals[f"{column} {whole}"])
        return found

    estimates = estimate(counted, metrics, groups=groups, num_bootstrap=num_bootstrap, seed=seed)
    cells = {}
    for column in columns:
        words = estimates[f"{column} {WORDS}"].interval()
        cells[column, WORDS] = DriftCell(
            number(words.value, 1), f"{number(words.low, 1)}–{number(words.high, 1)}"
        )
        for name, (_, whole) in SHARES.items():
            facts = counted.get(f"{column} {whole}")
            # Inherited compares with the row above, which the first one does not have.
            if facts is None or not facts.any() or (name == "Inherited" and column == columns[0]):
                cells[column, name] = DriftCell(NOT_RUN)
                continue
            images = {group for group, num in zip(groups, facts, strict=True) if num}
            share = interval_of(
                estimates[f"{column} {name}"], num_samples=float(facts.sum()), num_images=len(images)
            )
            ends = f"{number(100 * share.low, 1)}–{number(100 * share.high, 1)}"
            cells[column, name] = DriftCell(f"{number(100 * share.value, 1)}%", ends)
    return cells


def _wording(captions: Sequence[Sequence[str]]) -> tuple[DriftCell, ...]:
    """The number of different words, and of all n-grams the share of different ones, for n of 1, 2 and 3."""
    shares = []
    for n in (1, 2, 3):
        grams = [tuple(words[i : i + n]) for words in captions for i in range(len(words) - n + 1)]
        shares.append(DriftCell(f"{100 * len(set(grams)) / len(grams):.1f}%" if grams else NOT_RUN))
    size = len({word for words in captions for word in words})
    return (DriftCell(f"{size:,}"), *shares)
