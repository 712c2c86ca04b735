"""Drift across rounds: how wording narrows, what is invented or left out, and which errors are handed down."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from vila2cli.report.all_captions import ALT, ImageCaptions
from vila2cli.report.captions import vocabulary_of
from vila2cli.report.figures import Figure
from vila2cli.report.tables import Cell, Table, TableRow, columns
from vila2cli.report.wording import number
from vila2cli.score.caption import Fact, contradicted_facts, stated_facts, true_facts
from vila2cli.score.scorer import Vocabulary
from vila2cli.score.stats import (
    Bootstrap,
    Columns,
    FloatArray,
    columns_of,
    estimate,
    interval_of,
    ratio,
)

COUNTS = ("Vocabulary", "Distinct 1-grams", "Distinct 2-grams", "Distinct 3-grams")
SHARES = {
    "Hallucinated": ("wrong", "stated"),
    "Omitted": ("missed", "true"),
    "Inherited": ("kept", "wrong"),
    "Put right": ("corrected", "wrong before"),
}
"""The facts that a share is the ratio of: part and whole, each counted by image."""
FACT_COLUMNS = tuple(SHARES)


def drift_table(
    images: Sequence[ImageCaptions], rounds: Sequence[int], **bootstrap: Unpack[Bootstrap]
) -> Table:
    """What of the captions changes from round to round, over the images that every round captions.

    With ground truth also: of the facts stated the share that contradicts the picture, of those true the
    share left out, of the contradicted ones the share that the round before stated too, and of the round
    before's the share that is gone. Shares have bootstrap intervals over images. How long captions are is told
    once on the page, of all of them and not of these images.
    """
    for shown in ([ALT, *rounds], list(rounds)):
        common = [image for image in images if all(image.texts.get(column) for column in shown)]
        if common:
            break
    if not common or not rounds:
        return Table(note="No image has a caption of every round yet.")
    vocabulary = vocabulary_of([image.scene for image in common])
    cells = _shares(common, shown, vocabulary, **bootstrap) if vocabulary else {}
    rows = []
    for column in shown:
        wording = _wording([image.texts[column].lower().split() for image in common])
        shares = [cells[column, name] for name in SHARES] if vocabulary else []
        label = "alt-text" if column == ALT else f"round {column}"
        rows.append(TableRow(label, (*wording, *shares)))
    names = COUNTS + (FACT_COLUMNS if vocabulary else ())
    return Table(columns("Captions", num=names), tuple(rows), _note(len(common), vocabulary))


def _note(num_images: int, vocabulary: Vocabulary | None) -> str:
    note = f"Over the {num_images:,} images that every row captions."
    if vocabulary is None:
        return f"{note} Without ground truth what is invented or left out cannot be counted."
    return (
        f"{note} Small print is the 95% interval over them; vocabulary and distinct n-grams have none: they "
        "are no means over images, and images drawn twice by a bootstrap add no words. Hallucinated are the "
        "stated facts that contradict the picture, omitted the true ones not stated. Inherited is the share of "
        "a row's hallucinated facts that the row above states too, put right the share of the row above's that "
        "this one no longer states."
    )


def _count(image: ImageCaptions, shown: Sequence[int], vocabulary: Vocabulary) -> dict[str, float]:
    """Facts of an image's captions, by round and name."""
    counts: dict[str, float] = {}
    before: set[Fact] = set()
    for column in shown:
        stated, wrong, true = _facts(image.texts[column], image.scene, vocabulary)
        kept = len(wrong & before)
        facts = {
            "stated": len(stated),
            "wrong": len(wrong),
            "true": len(true),
            "missed": len(true - stated),
            "kept": kept,
            "corrected": len(before) - kept,
            "wrong before": len(before),
        }
        counts |= {f"{column} {name}": count for name, count in facts.items()}
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


def _shares(
    images: Sequence[ImageCaptions],
    shown: Sequence[int],
    vocabulary: Vocabulary,
    **bootstrap: Unpack[Bootstrap],
) -> dict[tuple[int, str], Cell]:
    """The shares of every row, all from one resampling of the images."""
    counted = columns_of([_count(image, shown, vocabulary) for image in images])
    groups = [image.image_sha256 or image.key for image in images]

    def metrics(totals: Columns) -> dict[str, FloatArray]:
        quotients = {}
        for column in shown:
            for name, (part, whole) in SHARES.items():
                if f"{column} {whole}" in totals:
                    quotients[f"{column} {name}"] = (f"{column} {part}", f"{column} {whole}")
        return {name: ratio(totals[part], totals[whole]) for name, (part, whole) in quotients.items()}

    estimates = estimate(counted, metrics, groups=groups, **bootstrap)
    cells = {}
    for column in shown:
        for name, (_, whole) in SHARES.items():
            facts = counted.get(f"{column} {whole}")
            # Inherited compares with the row above, which the first one does not have.
            if facts is None or not facts.any() or (name == "Inherited" and column == shown[0]):
                cells[column, name] = Cell()
                continue
            num_images = len({group for group, num in zip(groups, facts, strict=True) if num})
            share = estimates[f"{column} {name}"]
            found = interval_of(share, num_samples=float(facts.sum()), num_images=num_images)
            figure = Figure(found.value, found.low, found.high).scaled(100)
            cells[column, name] = Cell(f"{number(figure.value, 1)}%", figure.span())
    return cells


def _wording(captions: Sequence[Sequence[str]]) -> tuple[Cell, ...]:
    """The number of different words, and of all n-grams the share of different ones, for n of 1, 2 and 3."""
    shares = []
    for n in (1, 2, 3):
        grams = [tuple(words[i : i + n]) for words in captions for i in range(len(words) - n + 1)]
        shares.append(Cell(f"{100 * len(set(grams)) / len(grams):.1f}%") if grams else Cell())
    size = len({word for words in captions for word in words})
    return (Cell(f"{size:,}"), *shares)
