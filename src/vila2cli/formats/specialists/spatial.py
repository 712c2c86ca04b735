"""Spatial questions whose answer is a box: VILA^2 section 2.2.1, SpatialRelationQA.

Object to object: closest, in front of, behind, left, right. Object to camera: close, far, closest,
farthest, left, right. What needs depth is asked only where the annotation has it; without it
"closest" is meant in the image, and above and below are added. A question is asked only when
exactly one instance of the category answers it and no other is near the limit.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import NamedTuple

from vila2cli.formats.specialists.boxes import GRID, box_text
from vila2cli.formats.specialists.pictures import Boxed, BuildSettings, Conversation, Picture, spread
from vila2cli.formats.specialists.rules import by_category
from vila2cli.text.prompts import PROMPTS, draw, stable_hash

CLOSE_M, FAR_M = 2.0, 5.0
"""What "close to the camera" and "far from it" mean, in metres; the paper does not say."""
DEPTH_MARGIN = 0.15
"""How much farther off a thing has to be to be behind another, as a share of the nearer one's depth."""
CLEARLY = 1.25
"""How much nearer the closest has to be than the second."""
MAX_OVERLAP = 0.25
"""Share of the narrower box that may reach past the other's edge for it still to be beside it."""

Verdict = bool | None
"""Whether a relation holds; None where it is too near the limit to say."""
PHRASES = {
    "closest": "closest to",
    "in-front": "in front of",
    "behind": "behind",
    "left": "to the left of",
    "right": "to the right of",
    "above": "above",
    "below": "below",
}
CAMERA_PHRASES = {
    "camera-close": "close to the camera",
    "camera-far": "far from the camera",
    "camera-closest": "closest to the camera",
    "camera-farthest": "farthest from the camera",
    "camera-left": "on the left of the camera's view",
    "camera-right": "on the right of the camera's view",
}
TEMPLATES = (
    "Where is the {name} {relation} in the image?",
    "Locate the {name} {relation} with [xmin,ymin,xmax,ymax].",
    "Which {name} is {relation}? Give its box.",
)


def converse(picture: Picture, things: Sequence[Boxed], settings: BuildSettings) -> Conversation:
    """Questions about a picture's settled things, drawn by the picture's name and the seed."""
    clear = relations(things)
    if not clear:
        error = f"none of {len(things)} objects stands in a clear relation"
        return Conversation(problem=("no-relation", error))
    talk = Conversation()
    random = Random(stable_hash("spatial", settings.seed, picture.name))
    if settings.describe:
        prompt = draw(("spatial-v1", "spatial-v2"), "spatial", settings.seed, picture.name)
        between = [relation for relation in clear if relation.other is not None and relation.kind != "closest"]
        if between:
            chosen = random.sample(between, min(settings.max_questions, len(between)))
            used = [things[i] for _, *both in chosen for i in both if i is not None]
            sentences = " ".join(_sentence(things, relation) for relation in chosen)
            talk.ask("describe", PROMPTS[prompt], sentences, used)
    kinds: dict[str, list[int]] = {}
    for index, relation in enumerate(clear):
        kinds.setdefault(relation.kind, []).append(index)
    for kind, index in spread(kinds, settings.max_questions, random):
        relation = clear[index]
        answer, others = things[relation.answer], [] if relation.other is None else [things[relation.other]]
        question = random.choice(TEMPLATES).format(name=answer.category, relation=_phrase(things, relation))
        talk.ask(kind, question, box_text(answer.box), [answer, *others])
    return talk


class Relation(NamedTuple):
    """One clear answer: which thing stands in the relation to which other, None for the camera."""

    kind: str
    answer: int
    other: int | None


def relations(things: Sequence[Boxed]) -> list[Relation]:
    """Every relation between things, or to the camera, that one thing of its category alone stands in."""
    clear: list[Relation] = []
    rules = _rules(things)
    for members in by_category(things).values():
        for other in range(len(things)):
            for kind, rule in rules.items():
                verdicts = {index: rule(things[index], things[other]) for index in members if index != other}
                if (answer := _only(verdicts)) is not None:
                    clear.append(Relation(kind, answer, other))
            if (nearest := _closest(things, members, other)) is not None:
                clear.append(Relation("closest", nearest, other))
        clear += _to_camera(things, members)
    return clear


def _rules(things: Sequence[Boxed]) -> dict[str, Callable[[Boxed, Boxed], Verdict]]:
    rules: dict[str, Callable[[Boxed, Boxed], Verdict]] = {
        "left": lambda a, b: before(a.box, b.box, 0),
        "right": lambda a, b: before(b.box, a.box, 0),
    }
    if any(thing.distance is not None for thing in things):
        return rules | {"in-front": nearer, "behind": lambda a, b: nearer(b, a)}
    return rules | {
        "above": lambda a, b: before(a.box, b.box, 1),
        "below": lambda a, b: before(b.box, a.box, 1),
    }


def before(a: Sequence[float], b: Sequence[float], axis: int) -> Verdict:
    """Whether box `a` lies left of (axis 0) or above (axis 1) box `b`, their edges hardly overlapping."""
    a1, a2, b1, b2 = a[axis], a[axis + 2], b[axis], b[axis + 2]
    slack = MAX_OVERLAP * min(a2 - a1, b2 - b1)
    if a2 - b1 <= slack and a1 + a2 < b1 + b2:
        return True
    return False if a1 + a2 >= b1 + b2 else None


def nearer(a: Boxed, b: Boxed) -> Verdict:
    """Whether `a` is nearer to the camera than `b` by more than the margin."""
    if a.distance is None or b.distance is None:
        return None
    margin = DEPTH_MARGIN * min(a.distance, b.distance)
    if a.distance + margin < b.distance:
        return True
    return False if a.distance > b.distance + margin else None


def _only(verdicts: Mapping[int, Verdict]) -> int | None:
    """The one thing for which a relation holds, None when it is none, several or unclear."""
    right = [index for index, verdict in verdicts.items() if verdict]
    return right[0] if len(right) == 1 and None not in verdicts.values() else None


def _closest(things: Sequence[Boxed], members: Sequence[int], other: int) -> int | None:
    rivals = [index for index in members if index != other]
    if len(rivals) < 2:  # with one there is nothing to tell apart
        return None
    return _clearly_least({index: _gap(things[index], things[other], things) for index in rivals})


def _gap(a: Boxed, b: Boxed, things: Sequence[Boxed]) -> float | None:
    """Metres between two centres where they are known, else shares of the image where no depth is."""
    if a.centre is not None and b.centre is not None:
        return math.dist(a.centre, b.centre)
    if any(thing.distance is not None for thing in things):
        return None
    return math.dist(_middle(a), _middle(b)) / GRID


def _middle(thing: Boxed) -> tuple[float, float]:
    return (thing.box[0] + thing.box[2]) / 2, (thing.box[1] + thing.box[3]) / 2


def _clearly_least(values: dict[int, float | None]) -> int | None:
    known = sorted((value, index) for index, value in values.items() if value is not None)
    if len(known) != len(values) or len(known) < 2:
        return None
    return known[0][1] if known[0][0] * CLEARLY < known[1][0] else None


def _to_camera(things: Sequence[Boxed], members: Sequence[int]) -> list[Relation]:
    """Relations to the camera: sides of the view for every picture, distances where there is depth."""
    half = GRID / 2
    rules: dict[str, Callable[[int], Verdict]] = {
        "camera-left": lambda i: _side(things[i].box[2] <= half, things[i].box[0] >= half),
        "camera-right": lambda i: _side(things[i].box[0] >= half, things[i].box[2] <= half),
    }
    depths = {index: things[index].distance for index in members}
    known = {index: depth for index, depth in depths.items() if depth is not None}
    if known.keys() == depths.keys():
        rules["camera-close"] = lambda i: _side(known[i] <= CLOSE_M, known[i] > CLOSE_M * CLEARLY)
        rules["camera-far"] = lambda i: _side(known[i] >= FAR_M, known[i] < FAR_M / CLEARLY)
    clear = [
        Relation(kind, answer, None)
        for kind, rule in rules.items()
        if (answer := _only({index: rule(index) for index in members})) is not None
    ]
    if (nearest := _clearly_least(depths)) is not None:
        clear.append(Relation("camera-closest", nearest, None))
    if (farthest := _clearly_least({i: 1 / d if d else None for i, d in depths.items()})) is not None:
        clear.append(Relation("camera-farthest", farthest, None))
    return clear


def _side(is_clear: bool, is_opposite: bool) -> Verdict:
    return True if is_clear else False if is_opposite else None


def _phrase(things: Sequence[Boxed], relation: Relation) -> str:
    if relation.other is None:
        return CAMERA_PHRASES[relation.kind]
    other = things[relation.other]
    return f"{PHRASES[relation.kind]} the {other.category} {box_text(other.box)}"


def _sentence(things: Sequence[Boxed], relation: Relation) -> str:
    answer = things[relation.answer]
    return f"The {answer.category} {box_text(answer.box)} is {_phrase(things, relation)}."
