"""The same images across rounds: which ones are shown, what changed in their captions, what is right."""

import difflib
import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vila2cli.errors import DataError
from vila2cli.image import decode_image
from vila2cli.report.caption_layers import CaptionLayer, sample_captions
from vila2cli.report.inlined import InlinePicture, picture_of
from vila2cli.report.json_reader import JsonReader
from vila2cli.report.wording import visible
from vila2cli.score.caption import count_facts, stated_facts, true_facts
from vila2cli.score.scorer import Vocabulary
from vila2cli.shards.sample import Annotation, Sample, kept_instead, source_of
from vila2cli.text.words import num_words

MAX_CARDS = 24
"""Images shown; drawn by the hash of their keys, so never picked for their result."""

_SENTENCES = re.compile(r"(?<=[.!?])(\s+)|(\n+)")
_CLAUSES = re.compile(r"((?:(?<!\s)\s*|(?<=\s))(?:[,;]|\band\b)\s*)")
_WORDS = re.compile(r"\S+|\s+")


@dataclass(frozen=True, slots=True)
class Span:
    """A run of text in one style: any of `right`, `vague`, `wrong`, `new`, separated by spaces."""

    text: str
    style: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionColumn:
    """One column of a card."""

    title: str
    spans: tuple[Span, ...]
    score: str = ""
    meta: str = ""
    empty: str = "not captioned"
    is_alt: bool = False
    balance: int | None = None
    """Right minus wrong facts, None where nothing can be counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One image with its captions, oldest first. `trend` compares the last caption with the first one."""

    key: str
    captions: tuple[CaptionColumn, ...]
    picture: InlinePicture
    truth: tuple[str, ...] = ()
    trend: str = "same"
    differ: bool = False


@dataclass(frozen=True, slots=True)
class CaptionSection:
    """The cards of a run, and a sentence about them, or the reason why there are none."""

    cards: Sequence[Card]
    note: str


def caption_section(layers: Sequence[CaptionLayer], reader: JsonReader) -> CaptionSection:
    """Cards of images drawn from a few shards of the layers."""
    if not layers:
        return CaptionSection((), "No recaptions yet: vila2 recaption writes them to roundN/recaption.")
    samples = sample_captions(layers, reader)
    if not samples:
        return CaptionSection((), "No caption could be read from the recaption layers.")
    rounds = sorted({layer.round for layer in layers})
    vocabulary = vocabulary_of([usable_scene(sample.meta.get("scene")) for sample in samples])
    samples.sort(key=lambda sample: (-len(_by_round(sample)), hashlib.sha256(sample.key.encode()).digest()))
    cards = [_card(sample, rounds, vocabulary) for sample in samples[:MAX_CARDS]]
    note = (
        f"{len(cards)} images, drawn by the hash of their keys and not picked for their result. "
        "Each round's caption was written by the model of the round before."
    )
    if vocabulary is None:
        note += " The images carry no ground truth, so facts are not coloured."
    return CaptionSection(cards, note)


def vocabulary_of(scenes: Sequence[Mapping[str, Any] | None]) -> Vocabulary | None:
    """All words that the scenes use, None without scenes."""
    facts = {fact for scene in scenes if scene for fact in true_facts(scene)}
    slots: list[set[str]] = [set(), set(), set(), set()]
    for fact in facts:
        slots[3].add(str(fact[-1]))
        for slot, word in zip(slots, fact[:-1], strict=False):
            if len(fact) == len(slots):
                slot.add(str(word))
    return Vocabulary(*(tuple(sorted(words)) for words in slots)) if facts else None


def usable_scene(scene: object) -> Mapping[str, Any] | None:
    """The ground truth of a sample where it has the slots, None for anything else."""
    try:
        return scene if isinstance(scene, dict) and true_facts(scene) else None
    except DataError:
        return None


def _by_round(sample: Sample) -> dict[int, Annotation]:
    return {a.round: a for a in sample.annotations if a.kind == "caption" and isinstance(a.round, int)}


def _card(sample: Sample, rounds: Sequence[int], vocabulary: Vocabulary | None) -> Card:
    scene = usable_scene(sample.meta.get("scene"))
    known = vocabulary if scene is not None else None
    annotations = _by_round(sample)
    captions = [_caption("alt-text", sample.text or "", None, scene, known, is_alt=True)]
    earlier = ""
    for number in rounds:
        annotation = annotations.get(number)
        text = (annotation.text or "") if annotation else ""
        caption = _caption(f"round {number}", text, earlier or None, scene, known, meta=_meta(annotation))
        captions.append(caption)
        earlier = text or earlier
    return Card(
        key=visible(sample.key, 80),
        captions=tuple(captions),
        picture=_picture(sample),
        truth=_truth(scene),
        trend=_trend([caption.balance for caption in captions[1:] if caption.balance is not None]),
        differ=len({annotation.text for annotation in annotations.values()}) > 1,
    )


def _trend(balances: Sequence[int]) -> str:
    """Whether right minus wrong facts rose from the first caption to the last."""
    if len(balances) < 2 or balances[0] == balances[-1]:
        return "same"
    return "better" if balances[-1] > balances[0] else "worse"


def _truth(scene: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The facts of a scene in words, at most twelve."""
    facts = sorted(true_facts(scene), key=lambda fact: (-len(fact), str(fact[-1]))) if scene else []
    lines = []
    for fact in facts[:12]:
        *words, place = (visible(word, 40) for word in fact)
        lines.append(f"{' '.join(words)}, {place}" if len(fact) == 4 else f"word “{words[0]}”, {place}")
    return tuple(lines)


def _meta(annotation: Annotation | None) -> str:
    if annotation is None:
        return ""
    text = annotation.text or ""
    parts = [kept_instead(source_of(annotation)), visible(annotation.prompt_id or "", 40), _num_words(text)]
    if annotation.finish_reason == "length":
        parts.append("cut off at the token limit")
    return " · ".join(filter(None, parts))


def _num_words(text: str) -> str:
    count = num_words(text)
    return "1 word" if count == 1 else f"{count:,} words"


def _caption(
    title: str,
    text: str,
    earlier: str | None,
    scene: Mapping[str, Any] | None,
    vocabulary: Vocabulary | None,
    *,
    meta: str = "",
    is_alt: bool = False,
) -> CaptionColumn:
    shown = visible(text)
    score, balance = "", None
    if shown and scene is not None and vocabulary is not None:
        count = count_facts(shown, scene, vocabulary)
        balance = count.right - count.contradicted
        score = f"{count.right} of {count.true} facts"
        score += f", {count.contradicted} wrong" if count.contradicted else ""
    return CaptionColumn(
        title=title,
        spans=tuple(mark_spans(shown, visible(earlier) if earlier else None, scene, vocabulary)),
        score=score,
        meta=meta or (_num_words(text) if is_alt and text else ""),
        empty="none" if is_alt else "not captioned",
        is_alt=is_alt,
        balance=balance,
    )


def mark_spans(
    text: str, earlier: str | None, scene: Mapping[str, Any] | None, vocabulary: Vocabulary | None
) -> list[Span]:
    """Cut a caption into spans: sentences with a fact are right or wrong, words not in `earlier` are new."""
    is_new = _new_characters(text, earlier)
    spans: list[Span] = []
    start = 0
    for piece, style, hint in _judged_pieces(text, scene, vocabulary):
        for new, run in itertools.groupby(range(start, start + len(piece)), key=is_new.__getitem__):
            styles = " ".join(filter(None, [style, "new" if new else ""]))
            spans.append(Span("".join(text[i] for i in run), styles, hint))
        start += len(piece)
    return spans


def _new_characters(text: str, earlier: str | None) -> list[bool]:
    """For every character, whether its word is new; the gap between two new words is new as well."""
    if earlier is None:
        return [False] * len(text)
    old, new = earlier.split(), text.split()
    matcher = difflib.SequenceMatcher(a=old, b=new, autojunk=False)
    same = {block.b + i for block in matcher.get_matching_blocks() for i in range(block.size)}
    flags: list[bool] = []
    index = 0
    for word in _WORDS.findall(text):
        is_gap = word.isspace()
        is_new = index < len(new) and index not in same
        flags += [is_new and (not is_gap or flags[-1:] == [True])] * len(word)
        index += not is_gap
    return flags


def _judged_pieces(
    text: str, scene: Mapping[str, Any] | None, vocabulary: Vocabulary | None
) -> list[tuple[str, str, str]]:
    """A caption cut into sentences, and those with several facts at commas and "and": text, style and hint."""
    if scene is None or vocabulary is None:
        return [(text, "", "")]
    pieces = []
    for sentence in filter(None, _SENTENCES.split(text)):
        several = len(stated_facts(sentence, vocabulary)) > 1
        for piece in filter(None, _CLAUSES.split(sentence) if several else [sentence]):
            pieces.append((piece, *_fact_style(piece, scene, vocabulary)))
    return pieces


def _fact_style(piece: str, scene: Mapping[str, Any], vocabulary: Vocabulary) -> tuple[str, str]:
    count = count_facts(piece, scene, vocabulary)
    if not count.stated:
        return "", ""
    if count.contradicted:
        return "wrong", "not in the picture"
    return ("vague", "not wrong, but not all of it said") if count.incomplete else ("right", "in the picture")


def _picture(sample: Sample) -> InlinePicture:
    """The first image of a sample, or why there is none."""
    if not sample.images:
        return InlinePicture(note="image not available")
    try:
        return picture_of(decode_image(sample.images[0].data))
    except DataError as error:
        return InlinePicture(note=visible(error, 160))
