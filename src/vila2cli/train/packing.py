"""Packing: the samples of a step joined into few sequences of about equal length.

Samples of one sequence do not see each other: every one of them counts its positions from zero, and
stock transformers models derive a block-diagonal attention mask from positions that start anew when
they are given no other mask.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence

from vila2cli.model.chat import IGNORE_INDEX

Sequences = list[list[int]]
"""Samples by their place in a step, sequence by sequence."""


def pack(
    tokens: Sequence[int], images: Sequence[int], *, max_tokens: int, max_images: int = 0, multiple: int = 1
) -> Sequences:
    """Put samples into sequences of at most `max_tokens` tokens and `max_images` images (0: any number).

    Best fit, longest sample first; a sample longer than a sequence has one for itself. The number of
    sequences is a `multiple` wherever there are samples enough, so that as many processes share them
    evenly. Where a sequence is split for that, the fullest one is.
    """
    order = sorted(range(len(tokens)), key=lambda i: (-tokens[i], i))
    packed: Sequences = []
    left_images: list[int] = []
    by_room: list[tuple[int, int]] = []  # tokens left, place in `packed`; sorted
    for i in order:
        start = bisect_left(by_room, (tokens[i], -1))
        fits = next((j for j in range(start, len(by_room)) if left_images[by_room[j][1]] >= images[i]), None)
        if fits is None:
            room, place = max_tokens, len(packed)
            packed.append([])
            left_images.append(max_images or sum(images))
        else:
            room, place = by_room.pop(fits)
        packed[place].append(i)
        left_images[place] -= images[i]
        if room > tokens[i]:
            insort(by_room, (room - tokens[i], place))
    return _split(packed, tokens, multiple)


def _split(packed: Sequences, tokens: Sequence[int], multiple: int) -> Sequences:
    """Halve the fullest sequences until their number is a multiple, or none holds two samples."""
    while len(packed) % multiple:
        several = [place for place, members in enumerate(packed) if len(members) > 1]
        if not several:
            break
        fullest = max(several, key=lambda place: sum(tokens[i] for i in packed[place]))
        members = packed.pop(fullest)
        packed += [members[::2], members[1::2]]
    return packed


def join(
    sequences: Sequence[Sequence[tuple[Sequence[int], Sequence[int]]]], pad_id: int, *, in_one: bool = False
) -> dict[str, list[list[int]]]:
    """`input_ids`, `labels` and `position_ids`, each B x S, of sequences of (ids, labels) pairs.

    Sequences are padded to the longest, or all joined `in_one`, which needs no padding. The first
    token of a sample is nothing's successor, so it has no label.
    """
    ids = [[ids for ids, _ in members] for members in sequences]
    labels = [[(IGNORE_INDEX, *labels[1:]) for _, labels in members] for members in sequences]
    places = [[range(len(ids)) for ids, _ in members] for members in sequences]
    return {
        "input_ids": lay(ids, lambda _: pad_id, in_one=in_one),
        "labels": lay(labels, lambda _: IGNORE_INDEX, in_one=in_one),
        "position_ids": lay(places, lambda place: place, in_one=in_one),
    }


def lay(
    sequences: Sequence[Sequence[Sequence[int]]], padding: Callable[[int], int], *, in_one: bool = False
) -> list[list[int]]:
    """Values of samples, one for each token, laid as `join` lays their ids: B x S.

    The padding at the end of a sequence counts as a sample of its own; `padding` says what is in its places.
    """
    if in_one:
        sequences = [[values for members in sequences for values in members]]
    rows = [[value for values in members for value in values] for members in sequences]
    longest = max(map(len, rows))
    return [row + [padding(place) for place in range(longest - len(row))] for row in rows]
