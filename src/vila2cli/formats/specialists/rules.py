"""Which annotated things may be asked about, and why not: VILA^2 section 2.2.1 and plain sanity."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vila2cli.formats.specialists.boxes import grid_box
from vila2cli.formats.specialists.pictures import Boxed, BuildSettings, Picture
from vila2cli.text.compose import neutral
from vila2cli.text.printable import printable

MAX_NAME_CHARS = 100
ILLEGIBLE = frozenset(("", ".", "#", "##", "###", "*"))
"""What TextOCR and ICDAR write for a word that nobody could read."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A thing that is not used, and why in one word."""

    thing: Boxed
    reason: str


def settle(
    picture: Picture, stored: tuple[int, int], orientation: int, settings: BuildSettings, *, for_grounding: bool
) -> tuple[list[Boxed], list[Dropped]]:
    """The usable things of a picture, boxes in 0-999 xyxy of the upright picture, and the others.

    A region said to be a crowd leaves out its whole category, as nobody counted what is in it, and so does a
    thing whose box could not be read: what is left of the category does not stand alone. Only grounding data
    have a limit to the size of a box, and regions, which are of no category to ask for.
    """
    crowded = {thing.category for thing in picture.things if thing.is_crowd}
    max_area = settings.max_area if for_grounding else 1.0
    kept: list[Boxed] = []
    dropped: list[Dropped] = []
    for thing in picture.things:
        reason = "crowd" if thing.category in crowded else name_problem(thing)
        if not reason and thing.category in picture.unplaced:
            reason = "one-is-unplaced"
        if not reason and thing.is_region and not for_grounding:
            reason = "region"
        box = reason or grid_box(thing.box, picture.frame, stored, orientation, max_area=max_area)
        if isinstance(box, str):
            dropped.append(Dropped(thing, box))
        else:
            kept.append(replace(thing, box=box, category=clean(thing.category)))
    return kept, dropped


def name_problem(thing: Boxed) -> str:
    """Why a thing cannot be named in a question, "" when it can."""
    if thing.text is not None:
        return text_problem(thing.text)
    name = " ".join(thing.category.split())
    if not name:
        return "unnamed"
    if printable(name) != name:
        return "unprintable-name"
    return "name-too-long" if len(name) > MAX_NAME_CHARS else ""


def text_problem(text: str) -> str:
    """Why written text is not plausible, "" when it is: illegible, overlong, or with control characters."""
    if text.strip() in ILLEGIBLE:
        return "illegible"
    if printable(text) != text:
        return "unprintable-text"
    return "text-too-long" if len(text) > MAX_NAME_CHARS else ""


def crowded_category(picture: Picture, settings: BuildSettings) -> str:
    """A category with more instances than `max_instances` (a crowd region counts as more), "" without one."""
    counts = Counter(thing.category for thing in picture.things if thing.text is None and not thing.is_again)
    counts.update(picture.unplaced)
    crowds = [thing.category for thing in picture.things if thing.is_crowd]
    over = crowds + [category for category, count in counts.items() if count > settings.max_instances]
    return over[0] if over else ""


def clean(text: str) -> str:
    """Text from an annotation on one line, with nothing in it that stands for an image or starts a box.

    Names and answers that hold control characters are not used; of captions and questions they are left out.
    """
    line = " ".join(text.split()).replace("[", "(").replace("]", ")")
    return neutral("".join(character for character in line if printable(character) == character))


def by_category(things: Sequence[Boxed]) -> dict[str, list[int]]:
    """Indices of the things of each category, in order."""
    indices: dict[str, list[int]] = {}
    for index, thing in enumerate(things):
        indices.setdefault(thing.category, []).append(index)
    return indices
