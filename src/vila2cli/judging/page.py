"""A page on which people compare captions side by side without knowing whose they are.

The page is one HTML file that works offline. It holds each pair under an id that says nothing, with its
captions left and right as a seeded coin fell; which layer stands where is in a key file apart from it.
Captions are text from anywhere: they are JSON inside the page, of which no character can end the
element it stands in, and the page's script puts them into text nodes only. A content security
policy forbids every other script and every request.
"""

import base64
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from vila2cli.errors import DataError
from vila2cli.run.folder import digest
from vila2cli.score.verdict import Pair
from vila2cli.text.printable import printable
from vila2cli.text.prompts import stable_hash

KEY_FORMAT = "vila2-judge-key-1"
ANSWERS_FORMAT = "vila2-judge-answers-1"
MAX_SIDE = 1024
"""Pixels of the longer side of an image on the page."""
_JPEG_QUALITY = 88


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One pair of captions of one image as it stands on the page; `left` holds which of the two layers."""

    id: str
    shard: str
    key: str
    image_sha256: str
    pair: Pair
    left: str
    captions: tuple[str, str]  # left, right
    num_words: tuple[int, int]  # of the captions of the pair, in its order

    def to_key(self) -> dict[str, Any]:
        """What the key file says of it."""
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
) -> tuple[list[Shown], list[Shown]]:
    """Every pair of different captions, in an order and on sides that depend on the seed alone; and the others.

    Captions that are equal are a tie of every judge, and nobody is asked about them.
    """
    found = []
    for one in captioned:
        for pair in pairs:
            texts = tuple(one.captions[name] for name in pair)
            about = (seed, *pair, one.shard, one.key, one.image_sha256)
            is_left = stable_hash("side", *about) % 2 == 0
            left, right = texts if is_left else texts[::-1]
            found.append(
                Shown(
                    id=digest(["pair", *about])[:16],
                    shard=one.shard,
                    key=one.key,
                    image_sha256=one.image_sha256,
                    pair=pair,
                    left=pair[0] if is_left else pair[1],
                    captions=(left, right),
                    num_words=(len(texts[0].split()), len(texts[1].split())),
                )
            )
    different = [one for one in found if one.captions[0] != one.captions[1]]
    if not different:
        raise DataError("there is nothing to compare: the captions are the same everywhere")
    same = [one for one in found if one.captions[0] == one.captions[1]]
    return sorted(different, key=lambda shown: stable_hash("order", seed, shown.id)), same


def page_digest(shown: Sequence[Shown], question: str) -> str:
    """What tells this page from any other, for the answers to be held against."""
    return digest({"question": question, "pairs": [[one.id, *one.captions] for one in shown]})


def to_key(
    shown: Sequence[Shown], same: Sequence[Shown], question: str, layers: Sequence[str], seed: int
) -> dict[str, Any]:
    """The key file: which layer stands on which side of each pair, and the ties of equal captions."""
    return {
        "format": KEY_FORMAT,
        "page": page_digest(shown, question),
        "question": question,
        "layers": list(layers),
        "seed": seed,
        "pairs": [one.to_key() for one in shown],
        "ties": [one.to_key() for one in same],
    }


def render_page(
    shown: Sequence[Shown], question: str, image_url: Callable[[Shown], str], *, inlined: bool
) -> str:
    """The page; `image_url` gives the data: URL or relative path of a pair's image."""
    environment = Environment(
        loader=PackageLoader("vila2cli.judging"), autoescape=True, undefined=StrictUndefined
    )
    style, script = (_source(environment, name) for name in ("people.css", "people.js"))
    value = {
        "format": ANSWERS_FORMAT,
        "digest": page_digest(shown, question),
        "pairs": [
            {
                "id": one.id,
                "image": image_url(one),
                "left": _visible(one.captions[0]),
                "right": _visible(one.captions[1]),
            }
            for one in shown
        ],
    }
    return environment.get_template("people.html.j2").render(
        question=question,
        num_pairs=len(shown),
        pairs=json_for_script(value),
        style=Markup(style),
        script=Markup(script),
        style_sha256=_sha256(style),
        script_sha256=_sha256(script),
        image_sources="data:" if inlined else "'self' file:",
    )


def json_for_script(value: Any) -> Markup:
    """JSON in ASCII that can stand inside a script element: nothing in it ends the element or opens another."""
    text = json.dumps(value, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def to_jpeg(image: Image.Image) -> bytes:
    """The image as people see it: at most MAX_SIDE pixels wide and high, without anything but pixels."""
    small = image.copy()
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def data_url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def _visible(caption: str) -> str:
    """A caption without characters that nobody sees or that turn text around."""
    return printable(caption.strip(), keep_newlines=True)


def _source(environment: Environment, name: str) -> str:
    return PackageLoader("vila2cli.judging").get_source(environment, name)[0]


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
