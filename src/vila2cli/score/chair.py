"""CHAIR: objects that a caption names and that are not in the image (Rohrbach et al. 2018).

CHAIRi is the share of named objects that are not there, CHAIRs the share of captions that name one. What is
there comes from the image's instance labels and from its reference captions, read in the same way.
"""

import re
from collections.abc import Container, Mapping
from functools import cache
from pathlib import Path

from vila2cli.errors import DataError
from vila2cli.score.scorer import Reference, Row, Scorer
from vila2cli.score.stats import Columns, FloatArray, ratio

_WORD = re.compile(r"[a-z0-9]+(?:[-'][a-z0-9]+)*")
_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
_VEHICLES = ("jet", "train")
_PAIRS = (
    "motor bike,motor cycle,air plane,traffic light,street light,traffic signal,stop light,fire hydrant,"
    "stop sign,parking meter,suit case,sports ball,baseball bat,baseball glove,tennis racket,wine glass,"
    "hot dog,cell phone,mobile phone,teddy bear,hair drier,potted plant,laptop computer,home plate"
)
DOUBLE_WORDS: Mapping[str, str] = (
    {pair: pair for pair in _PAIRS.split(",")}
    | {f"{who} {animal}": animal for animal in (*_ANIMALS, "animal", "cub") for who in ("baby", "adult")}
    | {f"passenger {vehicle}": vehicle for vehicle in _VEHICLES}
    | {"bow tie": "tie", "toilet seat": "toilet"}
)
"""Two words that are one, and what they are taken for: a "baby bird" is no baby, a "hot dog" no dog."""

_PLURALS = "people children feet teeth geese mice knives calves loaves oxen buses taxis"
_SINGULARS = "person child foot tooth goose mouse knife calf loaf ox bus taxi"
_IRREGULAR = dict(zip(_PLURALS.split(), _SINGULARS.split(), strict=True))
_MEN = re.compile(r"men$")
_ES = re.compile(r"(ss|sh|ch|x|z|o)es$")


def read_synonyms(path: Path) -> dict[str, str]:
    """Word to class from a file in CHAIR's format: a line per class, its name first, commas between."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the synonyms {path}: {error}") from None
    synonyms: dict[str, str] = {}
    for line in lines:
        words = [word.strip() for word in line.split(",") if word.strip()]
        synonyms.update(dict.fromkeys(words, words[0]) if words else {})
    if not synonyms:
        raise DataError(f"{path} holds no synonyms; each line is a class and its synonyms, with commas between")
    return synonyms


@cache
def coco_synonyms() -> Mapping[str, str]:
    """The 80 classes of COCO with plain synonyms; for figures to compare give CHAIR's own synonyms.txt."""
    return read_synonyms(Path(__file__).with_name("coco_synonyms.txt"))


def singular(word: str, known: Container[str]) -> str:
    """The singular of an English noun by its ending; a known word stays as it is."""
    if word in known or word in _IRREGULAR:
        return word if word in known else _IRREGULAR[word]
    if not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return _MEN.sub("man", word)
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    return word[:-2] if _ES.search(word) else word[:-1]


def objects_named(caption: str, synonyms: Mapping[str, str]) -> list[tuple[str, str]]:
    """Every mention of a known object, in order, with its class."""
    spelt = _WORD.findall(caption.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    # The possessive of a plural, a lone apostrophe, is cut off already.
    owners = [word if word in synonyms else word.removesuffix("'s") for word in spelt]
    words = [singular(word, synonyms) for word in owners]
    joined: list[str] = []
    while words:
        pair = " ".join(words[:2])
        taken = DOUBLE_WORDS.get(pair) if len(words) > 1 else None
        joined.append(words[0] if taken is None else taken)
        words = words[1:] if taken is None else words[2:]
    if "toilet" in joined:  # its seat is no chair
        joined = [word for word in joined if word != "seat"]
    return [(word, synonyms[word]) for word in joined if word in synonyms]


def score(answer: str, reference: Reference) -> Row:
    """How many objects a caption names, and how many of them are not in the image."""
    synonyms = reference.synonyms or coco_synonyms()
    labels = reference.meta.get("objects")
    if not isinstance(labels, list):
        raise DataError("CHAIR needs the classes in the image as 'objects' in its JSON, a list of texts")
    there = {synonyms.get(str(label), str(label)) for label in labels}
    there |= {name for caption in reference.answers for _, name in objects_named(caption, synonyms)}
    named = [name for _, name in objects_named(answer, synonyms)]
    absent = sum(name not in there for name in named)
    return {
        "score": float(absent == 0),
        "named": float(len(named)),
        "absent": float(absent),
        "num_words": float(len(answer.split())),
    }


def metrics(totals: Columns) -> dict[str, FloatArray]:
    """CHAIRi and CHAIRs (lower is better), objects named per caption, and mean caption length."""
    return {
        "chair_i": ratio(totals["absent"], totals["named"]),
        "chair_s": ratio(totals["n"] - totals["score"], totals["n"]),
        "objects_named": ratio(totals["named"], totals["n"]),
        "num_words": ratio(totals["num_words"], totals["n"]),
    }


CHAIR = Scorer(
    name="chair",
    version="chair-2",
    headline="chair_i",
    score=score,
    metrics=metrics,
    is_share=False,
    tops=lambda metric, totals: float(metric in ("chair_i", "chair_s")),
    rule="CHAIR over the 80 classes of COCO",
    deviation="plurals are undone by rules of our own; so is the word list without 'synonyms' in task.toml",
)
