"""What becomes of each annotated picture, and of every object and question of a shard of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from vila2cli.files import to_json_bytes
from vila2cli.formats.specialists.pictures import BadEntry, Conversation, Picture
from vila2cli.formats.specialists.rules import Dropped
from vila2cli.shards.sample import EncodedImage, Reject

NOT_A_BOX = "not-a-box"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was made of a picture: image, pixels and conversation, or why it is no sample."""

    problem: tuple[str, str] | None = None
    dropped: Sequence[Dropped] = ()
    talk: Conversation | None = None
    image: EncodedImage | None = None
    upright: Image.Image | None = None


@dataclass(slots=True)
class ShardAccount:
    """What became of every picture, object and question of a shard."""

    shard: str
    dropped: Counter[str] = field(default_factory=Counter)
    objects: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)
    people_asked: Counter[str] = field(default_factory=Counter)
    malformed: Counter[str] = field(default_factory=Counter)
    rejects: list[Reject] = field(default_factory=list)
    unused: list[bytes] = field(default_factory=list)
    """Lines of OBJECTS_FILE."""

    def add(self, key: str, picture: Picture, made: Outcome) -> None:
        self._add_objects(picture, made)
        self._add_questions(picture, made)
        self.unused += [_object_line(key, dropped) for dropped in made.dropped]
        if made.problem:
            reason, error = made.problem
            self.dropped[reason] += 1
            self.rejects.append(Reject(self.shard, key, reason, f"{picture.name}: {error}"))
        for entry in [*picture.malformed, *_without_area(made.dropped)]:
            self.malformed[f"{entry.kind} {entry.reason}"] += 1
            error = f"{picture.name}: {entry.kind} {entry.where} {entry.error}"
            self.rejects.append(Reject(self.shard, f"{key}#{entry.where}", entry.reason, error))

    def _add_objects(self, picture: Picture, made: Outcome) -> None:
        num_kept = len(picture.things) - len(made.dropped)
        self.objects["in"] += len(picture.things)
        self.objects.update(dropped.reason for dropped in made.dropped)
        if made.problem or made.talk is None:
            self.objects["image-rejected"] += num_kept
        else:
            self.objects["named"] += len(made.talk.used)
            self.objects["not-asked-about"] += num_kept - len(made.talk.used)
        _add_malformed(self.objects, picture, "object")

    def _add_questions(self, picture: Picture, made: Outcome) -> None:
        """Count the questions that people asked about the picture, and those that are asked about it now."""
        self.people_asked["in"] += len(picture.questions)
        if made.talk is None:
            self.people_asked["image-rejected"] += len(picture.questions)
        else:
            self.questions.update(made.talk.kinds)
            self.people_asked.update(made.talk.unasked)
            self.people_asked["asked"] += made.talk.kinds.count("comprehend")
        _add_malformed(self.people_asked, picture, "question")

    def to_json(self) -> dict[str, Any]:
        """The entries of the shard's stats file."""
        counts = {
            "dropped": self.dropped,
            "objects": self.objects,
            "questions": self.questions,
            "people_asked": +self.people_asked,
            "malformed": self.malformed,
        }
        in_order = {name: dict(sorted(count.items())) for name, count in counts.items()}
        return {**in_order, "rejected": self.dropped.total()}


def _add_malformed(counts: Counter[str], picture: Picture, kind: str) -> None:
    reasons = [entry.reason for entry in picture.malformed if entry.kind == kind]
    counts.update(["in"] * len(reasons) + reasons)


def _without_area(dropped: Sequence[Dropped]) -> list[BadEntry]:
    """Dropped objects that count as malformed: their boxes are none."""
    return [
        BadEntry("object", thing.category, reason, f"box {list(thing.box)} has no area")
        for thing, reason in ((entry.thing, entry.reason) for entry in dropped)
        if reason == NOT_A_BOX
    ]


def _object_line(key: str, dropped: Dropped) -> bytes:
    thing = dropped.thing
    box = [value if abs(value) < 1e9 else None for value in thing.box]
    value = {"key": key, "category": thing.category, "box": box, "reason": dropped.reason}
    return to_json_bytes(value) + b"\n"
