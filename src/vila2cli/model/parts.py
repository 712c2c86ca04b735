"""Rendered text and its ids in parts, and the batches that are made of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vila2cli.model.rendering import Span
from vila2cli.shards.sample import IMAGE_PLACEHOLDER, Turn

IGNORE_INDEX = -100
Part = tuple[list[list[int]], bool]
"""Ids before, between and after the images of a stretch of a conversation, and whether it is an answer."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A template's text, where its answers stand, and its ids cut there and at the places of images."""

    text: str
    spans: list[Span]
    parts: list[Part]


def with_texts(turn: Turn, make: Callable[[str], str]) -> Turn:
    """A turn with its texts before, between and after the images rewritten by `make`."""
    return Turn(turn.role, IMAGE_PLACEHOLDER.join(map(make, turn.text.split(IMAGE_PLACEHOLDER))))


def split(ids: list[int], places: set[int]) -> list[list[int]]:
    """Ids before, between and after the places of images."""
    pieces: list[list[int]] = [[]]
    for token in ids:
        if token in places:
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces


def collate(
    samples: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int, *, left: bool = False
) -> Mapping[str, list[list[int]]]:
    """Pad (ids, labels) pairs to one length: `input_ids`, `labels` and `attention_mask`, each B x S."""
    longest = max(len(ids) for ids, _ in samples)
    batch: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
    for ids, labels in samples:
        gap = longest - len(ids)
        before, after = (gap, 0) if left else (0, gap)
        batch["input_ids"].append([pad_id] * before + list(ids) + [pad_id] * after)
        batch["labels"].append([IGNORE_INDEX] * before + list(labels) + [IGNORE_INDEX] * after)
        batch["attention_mask"].append([0] * before + [1] * len(ids) + [0] * after)
    return batch
