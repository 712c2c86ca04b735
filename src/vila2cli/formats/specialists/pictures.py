"""What an annotation says of one picture, whatever its format: things with boxes, captions, questions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from vila2cli.formats.specialists.boxes import Frame
from vila2cli.shards.sample import EncodedImage, Turn
from vila2cli.text.box_parsing import Box


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxed:
    """An object or a piece of text in a picture.

    `box` is in the picture's frame until `rules.settle` has put it into 0-999 xyxy. `phrases` single the
    object out; `span` is where the caption names it. `depth` is the distance along the camera's axis
    and `centre` the point (right, down, ahead) as the camera sees it, both in metres. `text` is what is
    written there, None for an object and "" where nobody could read it. `is_again` is another phrase for
    a thing that is there already, and `is_region` a place that is described and has no category.
    """

    category: str
    box: Box
    phrases: tuple[str, ...] = ()
    span: tuple[int, int] | None = None
    depth: float | None = None
    centre: tuple[float, float, float] | None = None
    text: str | None = None
    is_crowd: bool = False
    is_again: bool = False
    is_region: bool = False

    @property
    def distance(self) -> float | None:
        """Depth in metres, from `depth` or from `centre`."""
        return self.depth if self.depth is not None or self.centre is None else self.centre[2]


@dataclass(frozen=True, slots=True)
class BadEntry:
    """An entry that is not as its format says: an object, caption, phrase or question; why in one word."""

    kind: str
    where: str
    reason: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One annotated picture; `image` is its bytes or the file's place below the folder of images.

    `questions` are asked and answered by people. `split` is the benchmark's that the picture belongs to, ""
    where the annotations know none. `unplaced` has the category of each thing whose box could not be read.
    `malformed` are the entries that could not be read.
    `problem` is why an annotation cannot be used at all: a reason in one word and what is wrong.
    """

    name: str
    image: EncodedImage | Path
    frame: Frame
    things: tuple[Boxed, ...] = ()
    captions: tuple[str, ...] = ()
    questions: tuple[tuple[str, str], ...] = ()
    unplaced: tuple[str, ...] = ()
    split: str = ""
    malformed: tuple[BadEntry, ...] = ()
    problem: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """What decides the conversations.

    `max_area` (a share of the image) and `max_instances` (of one category) are the filters of VILA^2
    section 2.2.1 for grounding. `long_words` is where a long caption begins: the paper splits GRIT in two
    by length, but not where. `describe` begins with an answer to the specialist's generation prompt
    made from the annotations; the paper's spatial data have none. Of a benchmark's pictures only those of
    its `split` are used, as models are compared on the others.
    """

    max_area: float = 0.7
    max_instances: int = 3
    length: str = "any"
    long_words: int = 20
    max_questions: int = 8
    describe: bool = False
    split: str = "train"
    seed: int = 0
    samples_per_shard: int = 1000


@dataclass(slots=True)
class Conversation:
    """What a builder made of a picture: turns, the things named in them, the kind of each question.

    `unasked` counts people's questions that are not among them by reason. Without turns, `problem` is the
    reason in one word and what is wrong.
    """

    turns: list[Turn] = field(default_factory=list)
    used: list[Boxed] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    unasked: Counter[str] = field(default_factory=Counter)
    problem: tuple[str, str] | None = None

    def ask(self, kind: str, question: str, answer: str, things: Sequence[Boxed] = ()) -> None:
        """Add a question with its answer, and the things they are about."""
        self.turns += [Turn("user", question), Turn("assistant", answer)]
        self.kinds.append(kind)
        for thing in things:
            if thing not in self.used:
                self.used.append(thing)


def spread(kinds: dict[str, list[int]], most: int, random: Random) -> list[tuple[str, int]]:
    """Up to `most` of the numbered questions, taken from each kind in turn so that none crowds out another."""
    order = sorted(kinds)
    random.shuffle(order)
    left = {kind: random.sample(kinds[kind], len(kinds[kind])) for kind in order}
    chosen: list[tuple[str, int]] = []
    while len(chosen) < most and any(left.values()):
        for kind in order:
            if left[kind] and len(chosen) < most:
                chosen.append((kind, left[kind].pop()))
    return chosen
