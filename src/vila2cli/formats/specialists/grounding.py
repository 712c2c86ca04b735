"""Captions with a box after what they name, and phrases to locate (VILA^2 section 2.2.1 and appendix A.2).

GRIT's captions come with the place of every phrase; for COCO's and Visual Genome's the category's own
word is looked up. A caption that names nothing is followed by a list of the things with their boxes.
"""

import re
from collections.abc import Sequence
from random import Random

from vila2cli.formats.specialists.boxes import box_text
from vila2cli.formats.specialists.pictures import Boxed, BuildSettings, Conversation, Picture, spread
from vila2cli.formats.specialists.rules import by_category, clean, crowded_category
from vila2cli.text.prompts import PROMPTS, stable_hash
from vila2cli.text.words import num_words

LOCATE = (
    "Where is {phrase}? Answer with [xmin,ymin,xmax,ymax].",
    "Locate {phrase} in the image.",
    "Give the box of {phrase}.",
)
NAME = ("What is at {box}?", "Describe what {box} shows in a few words.")

Mark = tuple[int, int, list[Boxed]]
"""Start and end of a phrase in a caption, and the things it names."""


def converse(picture: Picture, things: Sequence[Boxed], settings: BuildSettings) -> Conversation:
    """A grounded caption and phrases to locate, of settled things; drawn by the picture's name and the seed."""
    if category := crowded_category(picture, settings):
        limit = f"more than {settings.max_instances} instances of {category!r}"
        return Conversation(problem=("too-many-instances", limit))
    if not things:
        return Conversation(problem=("no-objects", f"none of {len(picture.things)} objects can be used"))
    problems = [length_problem(caption, settings) for caption in picture.captions or ("",)]
    fitting = [caption for caption, problem in zip(picture.captions, problems, strict=False) if not problem]
    if all(problems):
        return Conversation(problem=problems[0])
    talk = Conversation()
    random = Random(stable_hash("grounding", settings.seed, picture.name))
    caption, marks = choose_caption(fitting, things, random)
    grounded = write_boxes(caption, marks)
    named = [thing for _, _, those in marks for thing in those]
    if not named:
        named = list(things)
        grounded = f"{grounded} {listing(things)}".strip()
    talk.ask("caption", PROMPTS["grounding-v1"], grounded, named)
    phrases = [(index, phrase) for index, thing in enumerate(things) for phrase in thing.phrases]
    kinds = {"locate": list(range(len(phrases))), "name": list(range(len(phrases)))}
    for kind, number in spread(kinds, settings.max_questions, random):
        index, phrase = phrases[number]
        box = box_text(things[index].box)
        if kind == "locate":
            talk.ask(kind, random.choice(LOCATE).format(phrase=clean(phrase)), box, [things[index]])
        else:
            talk.ask(kind, random.choice(NAME).format(box=box), clean(phrase), [things[index]])
    return talk


def choose_caption(captions: Sequence[str], things: Sequence[Boxed], random: Random) -> tuple[str, list[Mark]]:
    """The caption that names most of the things, of equals one drawn, with the places where it does."""
    if not captions:
        return "", []
    marked = [(caption, marks_in(caption, things)) for caption in captions]
    most = max(len(marks) for _, marks in marked)
    return random.choice([(caption, marks) for caption, marks in marked if len(marks) == most])


def marks_in(caption: str, things: Sequence[Boxed]) -> list[Mark]:
    """Where a caption names things: the spans that the annotation gives, else the categories' own words.

    A word is taken for a category only when the picture has one instance of it, or the word is its
    plural. Of phrases that overlap the first stays, and of those that begin together the longest.
    """
    spans: dict[tuple[int, int], list[Boxed]] = {}
    for thing in things:
        if thing.span is not None and 0 <= thing.span[0] < thing.span[1] <= len(caption):
            spans.setdefault(thing.span, []).append(thing)
    if not spans:
        for category, indices in by_category(things).items():
            plural = "" if len(indices) == 1 else "e?s"
            if match := re.search(rf"\b{re.escape(category)}{plural}\b", caption, re.IGNORECASE):
                spans[match.span()] = [things[index] for index in indices]
    marks: list[Mark] = []
    for (start, end), those in sorted(spans.items(), key=lambda span: (span[0][0], -span[0][1])):
        if not marks or start >= marks[-1][1]:
            marks.append((start, end, those))
    return marks


def write_boxes(caption: str, marks: Sequence[Mark]) -> str:
    """The caption with the boxes of each phrase behind it."""
    parts, at = [], 0
    for _, end, things in marks:
        boxes = " and ".join(box_text(thing.box) for thing in things)
        parts.append(f"{clean_part(caption[at:end])} {boxes}")
        at = end
    return " ".join("".join([*parts, clean_part(caption[at:])]).split())


def clean_part(text: str) -> str:
    """A piece of a caption, cleaned without losing the spaces at its ends."""
    lead, tail = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    return f"{' ' if lead else ''}{clean(text)}{' ' if tail and text.strip() else ''}"


def listing(things: Sequence[Boxed]) -> str:
    """`The image shows: dog [...]; chair [...] and [...].`"""
    named = [
        f"{category} {' and '.join(box_text(things[index].box) for index in indices)}"
        for category, indices in by_category(things).items()
    ]
    return f"The image shows: {'; '.join(named)}."


def length_problem(caption: str, settings: BuildSettings) -> tuple[str, str] | None:
    """Why a caption is not of the requested length; short ones are trained on first, long ones after."""
    words = num_words(caption)
    length = "long" if words >= settings.long_words else "short"
    if settings.length in ("any", length):
        return None
    return f"caption-too-{length}", f"{words} words, long ones have {settings.long_words} or more"
