"""What is read of one picture, row by row: what is not as its format says is counted and stops no other."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError, RecipeError
from vila2cli.formats.reading import Row, RowError
from vila2cli.formats.registry import FORMATS, Format, find_format
from vila2cli.formats.specialists.boxes import Frame
from vila2cli.formats.specialists.pictures import BadEntry, Boxed, Picture

PictureReader = Callable[[Sequence[Path]], Iterator[Picture]]
"""From annotation files to the pictures that they are about."""


@dataclass(slots=True)
class Draft:
    """What was read of one picture; `ids` are those of its annotations, by the list they are in."""

    things: list[Boxed] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    questions: list[tuple[str, str]] = field(default_factory=list)
    malformed: list[BadEntry] = field(default_factory=list)
    unplaced: list[str] = field(default_factory=list)
    split: str = ""
    ids: set[tuple[str, Any, Any]] = field(default_factory=set)

    @contextmanager
    def reading(self, kind: str) -> Iterator["Draft"]:
        """Note a RowError raised inside as a malformed object, caption, phrase or question."""
        try:
            yield self
        except RowError as error:
            self.malformed.append(BadEntry(kind, error.where, error.reason, error.error))

    def note_id(self, source: str, row: Row, name: str, what: Any = None) -> None:
        """Raise RowError for an annotation of this picture that there already was in the same list.

        It is the same by its id and `what` it says: some converters give all annotations one id.
        """
        if row.get(name) is not None:
            key = row.id(name)
            if (source, key, what) in self.ids:
                raise row.error(f"{name} {key!r} is that of an earlier one of this image", "duplicate-id")
            self.ids.add((source, key, what))

    @contextmanager
    def placing(self, category: str) -> Iterator[None]:
        """If reading its box fails, note that an object of this category is somewhere in the picture."""
        try:
            yield
        except RowError:
            self.unplaced.append(category)
            raise

    def picture(
        self, name: str, frame: Frame, *, image: Path | None = None, problem: tuple[str, str] | None = None
    ) -> Picture:
        """The draft as a picture; the image is the file of its name unless another is given."""
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

    def lost(self, name: str, error: str, reason: str = "malformed") -> Picture:
        """A picture that cannot be used, with all that is said of it, so that it is counted."""
        return self.picture(name, Frame("pixel", "xyxy"), image=Path(), problem=(reason, error))


Drafts = defaultdict[Any, Draft]
"""Drafts by the id of their picture; None holds what names no picture."""


def unlisted(drafts: Mapping[Any, Draft], images: Mapping[Any, Any]) -> Iterator[Picture]:
    """What is annotated on images that the annotations do not list, so that it is counted."""
    for key, draft in drafts.items():
        if key is None and draft != Draft():
            yield draft.lost("no image", "annotations that name no image", "unlisted-image")
        elif key is not None and key not in images:
            yield draft.lost(f"image {key}", f"no image has the id {key!r}", "unlisted-image")


def read_pictures(form: str, specialist: str, annotations: Sequence[Path]) -> Iterator[Picture]:
    """The pictures that annotation files are about.

    Raises RecipeError for a format that is unknown or has no data for the specialist, DataError for files
    that are not of the format.
    """
    chosen = find_format("shards build", form)
    if specialist not in chosen.specialists:
        able = ", ".join(known.name for known in FORMATS["shards build"] if specialist in known.specialists)
        raise RecipeError(f"--format {form} has no data for the {specialist} specialist; these have: {able}")
    return _checked(chosen, annotations)


def _checked(form: Format, annotations: Sequence[Path]) -> Iterator[Picture]:
    read: PictureReader = form.load()
    try:
        yield from read(annotations)
    except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError) as error:
        where = ", ".join(map(str, annotations))
        raise DataError(f"{where}: not as {form.name} writes it ({type(error).__name__}: {error})") from error
