"""Entries of annotation files, each read for itself: what is not as its format says stops no other."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from vila2cli.errors import DataError
from vila2cli.files import load_unchecked, parse_json
from vila2cli.formats.specialists.boxes import Frame
from vila2cli.formats.specialists.pictures import Box, Malformed, Picture, Thing
from vila2cli.text.printable import shortened

Json = Mapping[str, Any]
Found = TypeVar("Found")
MAX_SHOWN_CHARS = 80
"""How much of a wrong value is shown."""


class EntryError(Exception):
    """What is wrong with one entry, and that in one word; never leaves the readers."""

    def __init__(self, error: str, reason: str = "malformed") -> None:
        super().__init__(error)
        self.reason = reason


@dataclass(slots=True)
class Page:
    """What was read of one picture; `ids` are those of its annotations, by the list they stand in."""

    things: list[Thing] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    questions: list[tuple[str, str]] = field(default_factory=list)
    malformed: list[Malformed] = field(default_factory=list)
    unplaced: list[str] = field(default_factory=list)
    split: str = ""
    ids: set[tuple[str, Any, Any]] = field(default_factory=set)

    @contextmanager
    def reading(self, kind: str, where: str) -> Iterator["Page"]:
        """Note an EntryError raised inside as a malformed entry at this place."""
        try:
            yield self
        except EntryError as error:
            self.malformed.append(Malformed(kind, where, error.reason, str(error)))

    def note_id(self, where: str, entry: Json, name: str, what: Any = None) -> None:
        """Raise EntryError for an annotation of this picture that there already was in the same list.

        It is the same by its id and `what` it says: some converters give all annotations one id.
        """
        if entry.get(name) is not None:
            key = id_of(entry, name)
            if (where, key, what) in self.ids:
                raise EntryError(f"{name} {key!r} is that of an earlier one of this image", "duplicate-id")
            self.ids.add((where, key, what))

    @contextmanager
    def placing(self, category: str) -> Iterator[None]:
        """Note a thing of this category that is somewhere, nobody can tell where, if reading its box fails."""
        try:
            yield
        except EntryError:
            self.unplaced.append(category)
            raise

    def picture(
        self, name: str, frame: Frame, *, image: Path | None = None, problem: tuple[str, str] | None = None
    ) -> Picture:
        """The page as a picture; the image is the file of its name unless another is given."""
        return Picture(
            name=name,
            image=Path(name) if image is None else image,
            frame=frame,
            things=tuple(self.things),
            captions=tuple(self.captions),
            questions=tuple(self.questions),
            unplaced=tuple(self.unplaced),
            split=self.split,
            malformed=tuple(self.malformed),
            problem=problem,
        )


Pages = defaultdict[Any, Page]
"""Pages by the id of their picture; None holds what names no picture."""


def lost(page: Page, name: str, frame: Frame, reason: str, error: str) -> Picture:
    """A picture that cannot be used, with all that is said of it, so that it is counted."""
    return page.picture(name, frame, image=Path(), problem=(reason, error))


def unlisted(pages: Mapping[Any, Page], images: Mapping[Any, Any], frame: Frame) -> Iterator[Picture]:
    """What is annotated on images that the annotations do not list, so that it is counted."""
    for key, page in pages.items():
        if key is None and page != Page():
            yield lost(page, "no image", frame, "unlisted-image", "annotations that name no image")
        elif key is not None and key not in images:
            yield lost(page, f"image {key}", frame, "unlisted-image", f"no image has the id {key!r}")


def shown(value: object) -> str:
    """A wrong value for a message, cut to a length that fits a line."""
    return shortened(repr(value), MAX_SHOWN_CHARS)


def value_of(entry: Json, name: str) -> Any:
    if entry.get(name) is None:
        raise EntryError(f"has no {name!r}")
    return entry[name]


def object_of(value: object) -> Json:
    if not isinstance(value, Mapping):
        raise EntryError(f"is {shown(value)}, not an object")
    return value


def id_of(entry: Json, name: str) -> int | str:
    value = value_of(entry, name)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise EntryError(f"{name} is {shown(value)}, not a number or text")
    return value


def text_of(entry: Json, name: str) -> str:
    value = value_of(entry, name)
    if not isinstance(value, str):
        raise EntryError(f"{name} is {shown(value)}, not text")
    return value


def stated(read: Callable[[Json, str], Found], entry: object, name: str) -> Found | None:
    """What `read` finds in an entry under this name, None where it would be malformed."""
    try:
        return read(object_of(entry), name)
    except EntryError:
        return None


def list_of(entry: Json, name: str) -> list[Any]:
    """The list of this name, empty where there is none."""
    value = entry.get(name)
    if not isinstance(value, list | None):
        raise EntryError(f"{name} is {shown(value)}, not a list")
    return value or []


def name_of(entry: Json, name: str) -> str:
    """A picture's file name, which is not empty."""
    text = text_of(entry, name)
    if not text.strip():
        raise EntryError(f"{name} is empty")
    return text


def number_of(value: object, name: str, reason: str = "malformed") -> float:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise EntryError(f"{name} is {shown(value)}, not a finite number", reason)
    return number


def box_of(value: object, name: str) -> Box:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 4:
        raise EntryError(f"{name} is {shown(value)}, not four numbers", "not-a-box")
    a, b, c, d = (number_of(one, f"{name}[{number}]", "not-a-box") for number, one in enumerate(value))
    return a, b, c, d


def box_of_parts(entry: Json, *names: str) -> Box:
    """A box whose numbers stand under a name each."""
    if missing := [name for name in names if entry.get(name) is None]:
        raise EntryError(f"has no {missing[0]!r}", "not-a-box")
    a, b, c, d = (number_of(entry[name], name, "not-a-box") for name in names)
    return a, b, c, d


def size_of(entry: Json, width: str = "width", height: str = "height") -> tuple[float, float] | None:
    """Width and height in pixels, None where they are not stated."""
    if not entry.get(width) and not entry.get(height):
        return None
    sides = number_of(entry.get(width), width), number_of(entry.get(height), height)
    if min(sides) <= 0:
        raise EntryError(f"{width} and {height} are {sides[0]:g} and {sides[1]:g}")
    return sides


def read_document(path: Path, *keys: str, kind: type = list) -> dict[str, Any]:
    """A JSON object with lists (or what `kind` says) of these names; raises DataError."""
    document = parse_json(read_bytes(path), str(path))
    if missing := [key for key in keys if not isinstance(document.get(key), kind)]:
        what = "list" if kind is list else "object"
        raise DataError(f"{path} has no {what} {missing[0]!r}; is it of another --format?")
    return document


def read_list(path: Path) -> list[Any]:
    """A JSON list with objects in it; raises DataError."""
    try:
        value = load_unchecked(read_bytes(path))
    except ValueError as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if not isinstance(value, list) or (value and not any(isinstance(one, dict) for one in value)):
        raise DataError(f"{path} should hold a JSON list of objects; is it of another --format?")
    return value


def read_lines(path: Path, frame: Frame) -> Iterator[tuple[str, Json | Picture]]:
    """Place and object of each line that is not empty; a line that holds none is a picture with a problem."""
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            yield where, parse_json(line, "the line")
        except DataError as error:
            yield where, lost(Page(), where, frame, "malformed", str(error))


def read_bytes(path: Path) -> bytes:
    """The bytes of an annotation file; raises DataError, also for one with nothing in it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    if not data.strip():
        raise DataError(f"{path} is empty")
    return data
