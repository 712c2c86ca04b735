"""What can be said about a scene: captions, alt-text, questions, comparisons, specialists' answers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from vila2cli.shards.sample import Turn
from vila2cli.text.prompts import PROMPTS, draw
from vila2cli.world.scenes import COLOURS, LETTERS, PLACES, SHAPES, SIZES, Scene, SceneObject, frame

NUMBERS = ("zero", "one", "two", "three", "four")
LONG_PROMPTS = tuple(PROMPTS[name] for name in ("long-v1", "long-v2", "long-v3"))

MARKS = dict(zip(PLACES, ("nw", "ne", "sw", "se"), strict=True))
THING_MARKS = {
    (place, corner): MARKS[place] + letter
    for place in PLACES
    for corner, letter in zip(PLACES, "abcd", strict=True)
}
"""What stands for a quarter of the picture in a layout, and for an object near one of its corners."""

Question = tuple[str, str]
"""A question and its one right answer."""


def caption(scene: Scene) -> str:
    """The detailed caption, 25 to 48 words, every statement of it true."""
    head = f"The image shows {NUMBERS[len(scene.objects)]} objects" + (" and a word." if scene.writing else ".")
    return " ".join([head, *statements(scene)])


def statements(scene: Scene) -> list[str]:
    """One sentence for each object in reading order, and one for the word."""
    sentences = [_statement(thing) for thing in scene.objects]
    if scene.writing:
        sentences.append(f'At the {scene.writing.place} the word "{scene.writing.word}" is written.')
    return sentences


def _statement(thing: SceneObject) -> str:
    return f"At the {thing.place} there is a {thing.size} {thing.name}."


def corrupted_caption(scene: Scene, random: Random) -> str:
    """The caption of a scene that differs from the given one in one to three attributes."""
    objects = list(scene.objects)
    writing = scene.writing
    for _ in range(random.choice((1, 2, 3))):
        i = random.randrange(len(objects) + (writing is not None))
        if i < len(objects):
            objects[i] = wrong_object(objects[i], random)
        elif writing:
            letters = list(writing.word)
            letters[random.randrange(3)] = random.choice(LETTERS)
            writing = type(writing)("".join(letters), writing.place, writing.box)
    changed = Scene(tuple(objects), writing)
    return caption(changed) if caption(changed) != caption(scene) else corrupted_caption(scene, random)


def wrong_object(thing: SceneObject, random: Random) -> SceneObject:
    """The object with one attribute changed."""
    values = {"size": SIZES, "colour": COLOURS, "shape": SHAPES}
    name = random.choice(tuple(values))
    changed: dict[str, Any] = {name: random.choice([v for v in values[name] if v != getattr(thing, name)])}
    return replace(thing, **changed)


BOILERPLATE = (
    "Stock photo for free download, royalty free",
    "Buy online now - best price and fast delivery",
    "Click to enlarge the image, all rights reserved",
    "Home page | Gallery | Contact | Terms of use",
    "Pin by Anna on things to make this weekend",
    "Image may be subject to copyright of its owner",
)
NAMES = ("IMG", "DSC", "photo", "scan", "final", "thumb")
TAILS = (
    "for sale",
    "wallpaper",
    "free clipart",
    "on light background",
    "vector icon",
    "print",
    "HD",
    "new design",
)


def alt_text(scene: Scene, random: Random, *, wrong: float, boilerplate: float) -> str:
    """Web-like alt-text: short, one or two objects named, often vague, sometimes wrong or beside the point.

    `wrong` is the share of named objects with a wrong attribute, `boilerplate` the share of texts
    that are not about the picture.
    """
    if random.random() < boilerplate:
        if random.random() < 0.3:
            return f"{random.choice(NAMES)}_{random.randint(1000, 9999)}.jpg"
        return random.choice(BOILERPLATE)
    named = random.sample(scene.objects, random.choice((1, 1, 2, min(3, len(scene.objects)))))
    parts = [_mention(thing, random, wrong) for thing in named]
    if scene.writing and random.random() < 0.25:
        parts.append(f'"{scene.writing.word}"')
    text = " and ".join(parts)
    if random.random() < 0.5:
        text = f"{text} {random.choice(TAILS)}"
    return text[0].upper() + text[1:] if random.random() < 0.3 else text


def _mention(thing: SceneObject, random: Random, wrong: float) -> str:
    if random.random() < wrong:
        thing = wrong_object(thing, random)
    words = [thing.size] if random.random() < 0.4 else []
    words += [thing.colour] if random.random() < 0.75 else []
    text = " ".join([*words, thing.shape])
    return f"{text} at the {thing.place}" if random.random() < 0.3 else text


def ask_existence(scene: Scene, random: Random) -> Question:
    """Yes or no, half each; half of the false objects differ from a present one in one attribute."""
    names = {thing.name for thing in scene.objects}
    if random.random() < 0.5:
        return f"Is there {article(random.choice(sorted(names)))} in the image?", "yes"
    while True:
        name = f"{random.choice(COLOURS)} {random.choice(SHAPES)}"
        if random.random() < 0.5:
            name = wrong_object(random.choice(scene.objects), random).name
        if name not in names:
            return f"Is there {article(name)} in the image?", "no"


def article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def about_one(question: str, attribute: str) -> Callable[[Scene, Random], Question]:
    """Ask for an attribute of an object; `{0.place}` in the question is the object's place."""

    def ask(scene: Scene, random: Random) -> Question:
        thing = random.choice(scene.objects)
        return question.format(thing), getattr(thing, attribute)

    return ask


def ask_count(scene: Scene, random: Random) -> Question:
    if random.random() < 0.4:
        return "How many objects are in the image?", NUMBERS[len(scene.objects)]
    size = random.choice(SIZES)
    return f"How many {size} objects are in the image?", NUMBERS[sum(t.size == size for t in scene.objects)]


def ask_spatial(scene: Scene, random: Random) -> Question:
    thing, other = random.sample(scene.objects, 2)
    return f"Where is the {thing.name} relative to the {other.name}?", relation(thing, other)


def ask_ocr(scene: Scene, random: Random) -> Question:
    return "What is written in the image?", scene.writing.word if scene.writing else "nothing"


def ask_box(scene: Scene, random: Random) -> Question:
    """Locate one object; the answer is worded as the grounding specialist words its longer one."""
    thing = random.choice(scene.objects)
    return f"Locate the {thing.name} at the {thing.place} with [xmin,ymin,xmax,ymax].", _located(thing)


def _located(thing: SceneObject) -> str:
    return f"At the {thing.place} there is a {thing.size} {thing.name} at {box_text(thing)}."


QUESTIONS: dict[str, Callable[[Scene, Random], Question]] = {
    "existence": ask_existence,
    "colour": about_one("What colour is the object at the {0.place}?", "colour"),
    "shape": about_one("What shape is the object at the {0.place}?", "shape"),
    "size": about_one("Is the {0.name} small or large?", "size"),
    "count": ask_count,
    "place": about_one("Where is the {0.name}?", "place"),
    "spatial": ask_spatial,
    "ocr": ask_ocr,
    "grounding": ask_box,
}


def relation(thing: SceneObject, other: SceneObject) -> str:
    """Where `thing` is, seen from `other`: "above", "left", "below right" ..."""
    (y1, x1), (y2, x2) = thing.place.split(), other.place.split()
    words = [] if y1 == y2 else ["above" if y1 == "top" else "below"]
    words += [] if x1 == x2 else ["left" if x1 == "left" else "right"]
    return " ".join(words)


def relation_phrase(thing: SceneObject, other: SceneObject) -> str:
    """The relation as it stands in a sentence: "above and to the left of"."""
    words = [f"to the {w} of" if w in ("left", "right") else w for w in relation(thing, other).split()]
    return " and ".join(words)


def box_text(thing: SceneObject) -> str:
    """A box as the paper writes it: [xmin,ymin,xmax,ymax] with three digits each (VILA^2 figure 5)."""
    return "[" + ",".join(f"{value:03d}" for value in frame(thing.box)) + "]"


def comparison(scene: Scene, random: Random, *, thin: float = 0.0) -> list[Turn]:
    """Which of two captions is better: what lets a checkpoint judge captions later.

    One is true and full; the other is wrong in some attributes, or in a share `thin` of the cases
    alt-text, short and often wrong.
    """
    right = caption(scene)
    if thin and random.random() < thin:
        wrong = alt_text(scene, random, wrong=0.5, boilerplate=0.2)
    else:
        wrong = corrupted_caption(scene, random)
    return _which_is_better(right, wrong, random)


def sentence_comparison(scene: Scene, random: Random) -> list[Turn]:
    """Which of two sentences about one object is right."""
    thing = random.choice(scene.objects)
    return _which_is_better(_statement(thing), _statement(wrong_object(thing, random)), random)


def _which_is_better(right: str, wrong: str, random: Random) -> list[Turn]:
    first = random.random() < 0.5
    a, b = (right, wrong) if first else (wrong, right)
    return [Turn("user", PROMPTS["judge-pair-v1"].format(a=a, b=b)), Turn("assistant", "A" if first else "B")]


def describe(scene: Scene, random: Random, weights: Sequence[int] = (1, 1, 1)) -> list[Turn]:
    """A request for a long caption, one of three drawn by weight, and the caption."""
    prompt = random.choices(LONG_PROMPTS, weights)[0]
    return [Turn("user", prompt), Turn("assistant", caption(scene))]


def notes(scene: Scene, random: Random, *, only_names: bool = False, num: int = 10) -> str:
    """Facts in random order and with repeats, each led by the name of an object or by a place.

    Nearly every word of them can be looked up, and none by counting words: the densest text to
    learn looking up from.
    """
    facts = [f"{thing.name}: {thing.place}, {thing.size}" for thing in scene.objects]
    if not only_names:
        words = dict.fromkeys(PLACES, "nothing")
        if scene.writing:
            words[scene.writing.place] = scene.writing.word
        words |= {thing.place: f"{thing.size} {thing.name}" for thing in scene.objects}
        facts = [*facts, *facts, *(f"{place}: {text}" for place, text in words.items())]
    return "; ".join(random.choices(facts, k=num)) + "."


def interview(scene: Scene, random: Random, skills: list[str]) -> list[Turn]:
    """Questions of the given skills, in that order."""
    turns = []
    for skill in skills:
        question, answer = QUESTIONS[skill](scene, random)
        turns += [Turn("user", question), Turn("assistant", answer)]
    return turns


def specialist_answer(scene: Scene, name: str) -> str:
    """The right answer of a specialist to its generation prompt."""
    if name == "grounding":
        return " ".join(map(_located, scene.objects))
    if name == "ocr":
        if scene.writing is None:
            return "There is no text in the image."
        return f'The text "{scene.writing.word}" is written at the {scene.writing.place}.'
    pairs = [(a, b) for i, a in enumerate(scene.objects) for b in scene.objects[i + 1 :]]
    return " ".join(f"The {a.name} is {relation_phrase(a, b)} the {b.name}." for a, b in pairs)


def specialist_turns(scene: Scene, name: str, prompts: list[str], random: Random) -> list[Turn]:
    """A specialist's training conversation: its long answer, then questions of its skill."""
    prompt = PROMPTS[draw(prompts, "specialist", name, scene.signature)]
    turns = [Turn("user", prompt), Turn("assistant", specialist_answer(scene, name))]
    return turns + interview(scene, random, [name, name] if name != "ocr" else [name])


def layout(scene: Scene) -> list[str]:
    """The scene as sixteen words, four for every quarter of the picture in reading order.

    A quarter reads `size colour shape mark` when an object is in it, `L1 L2 L3 mark` for a word and
    `. . . mark` when it is empty; the mark names the quarter and the corner of it that
    the object is near. It is what the base LLM learns to read and, word by word, what the base tower
    learns to tell: row by row of its 4 x 4 image tokens, one quarter to a row (`world/base_data.py`).
    """
    quarters = {place: [".", ".", ".", MARKS[place]] for place in PLACES}
    for thing in scene.objects:
        mark = THING_MARKS[thing.place, thing.corner]
        quarters[thing.place] = [thing.size, thing.colour, thing.shape, mark]
    if scene.writing:
        quarters[scene.writing.place][:3] = scene.writing.word
    return [word for place in PLACES for word in quarters[place]]
