"""A page on which people compare captions side by side without knowing whose they are.

The page is one HTML file that works offline. It holds each pair under an id without meaning, with its
captions left and right as a seeded coin fell; which layer stands where is in a key file apart from it.
Captions are text from anywhere: they are JSON inside the page, in which no character can end the
element around it, and the page's script puts them into text nodes only. A content security
policy forbids every other script and every request.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vila2cli.errors import DataError
from vila2cli.run.folder import digest
from vila2cli.score.verdict import Pair
from vila2cli.text.html import render_html
from vila2cli.text.printable import printable
from vila2cli.text.prompts import stable_hash

KEY_FORMAT = "vila2-judge-key-1"
ANSWERS_FORMAT = "vila2-judge-answers-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPair:
    """Two captions of an image as they are on the page; `left` holds which of the two layers."""

    id: str
    shard: str
    key: str
    image_sha256: str
    pair: Pair
    left: str
    captions: tuple[str, str]  # left, right
    num_words: tuple[int, int]  # of the captions of the pair, in its order

    def to_key(self) -> dict[str, Any]:
        """Its entry in the key file."""
        return {
            "id": self.id,
            "shard": self.shard,
            "key": self.key,
            "image_sha256": self.image_sha256,
            "layer": self.pair[0],
            "against": self.pair[1],
            "left": self.left,
            "num_words": list(self.num_words),
        }


@dataclass(frozen=True, slots=True)
class Captioned:
    """An image with its captions by layer."""

    shard: str
    key: str
    image_sha256: str
    captions: dict[str, str]


def arrange(
    captioned: Iterable[Captioned], pairs: Sequence[Pair], seed: int
) -> tuple[list[ShownPair], list[ShownPair]]:
    """Every pair of different captions, in an order and on sides that depend on the seed alone; and the others.

    Captions that are equal are a tie of every judge, and nobody is asked about them.
    """
    shown = []
    for image in captioned:
        for pair in pairs:
            first, second = (image.captions[name] for name in pair)
            about = (seed, *pair, image.shard, image.key, image.image_sha256)
            is_left = stable_hash("side", *about) % 2 == 0
            shown.append(
                ShownPair(
                    id=digest(["pair", *about])[:16],
                    shard=image.shard,
                    key=image.key,
                    image_sha256=image.image_sha256,
                    pair=pair,
                    left=pair[0] if is_left else pair[1],
                    captions=(first, second) if is_left else (second, first),
                    num_words=(len(first.split()), len(second.split())),
                )
            )
    different = [pair for pair in shown if pair.captions[0] != pair.captions[1]]
    if not different:
        raise DataError("there is nothing to compare: the captions are the same everywhere")
    same = [pair for pair in shown if pair.captions[0] == pair.captions[1]]
    return sorted(different, key=lambda pair: stable_hash("order", seed, pair.id)), same


def page_digest(shown: Sequence[ShownPair], question: str) -> str:
    """What tells this page from any other; its answers carry it."""
    return digest({"question": question, "pairs": [[pair.id, *pair.captions] for pair in shown]})


def to_key(
    shown: Sequence[ShownPair], same: Sequence[ShownPair], question: str, layers: Sequence[str], seed: int
) -> dict[str, Any]:
    """The key file: which layer stands on which side of each pair, and the ties of equal captions."""
    return {
        "format": KEY_FORMAT,
        "page": page_digest(shown, question),
        "question": question,
        "layers": list(layers),
        "seed": seed,
        "pairs": [pair.to_key() for pair in shown],
        "ties": [pair.to_key() for pair in same],
    }


def render_page(
    shown: Sequence[ShownPair], question: str, image_url: Callable[[ShownPair], str], *, inlined: bool
) -> str:
    """The page; `image_url` gives the data: URL or relative path of a pair's image."""
    pairs = []
    for pair in shown:
        left, right = (printable(caption.strip(), keep_newlines=True) for caption in pair.captions)
        pairs.append({"id": pair.id, "image": image_url(pair), "left": left, "right": right})
    value = {"format": ANSWERS_FORMAT, "digest": page_digest(shown, question), "pairs": pairs}
    return render_html(
        "vila2cli.judging",
        "people.html.j2",
        {"style": "people.css", "script": "people.js"},
        question=question,
        num_pairs=len(shown),
        pairs=value,
        image_sources="data:" if inlined else "'self' file:",
    )
