"""Facts stated by a caption, against the facts of a scene: precision and recall without a judge.

Sentences are cut at commas, semicolons and "and" so that every clause names one object. A clause
with a shape word states one object fact: the first size, colour, shape and place in it. A clause
with a quoted word states that the word stands at the clause's first place. A fact is right only
when all of it is; precision counts a fact with a slot left out as wrong.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vila2cli.errors import DataError
from vila2cli.score.grouping import precision_recall
from vila2cli.score.scorer import Reference, Row, Scorer, Vocabulary
from vila2cli.score.stats import Columns, FloatArray, ratio

Fact = tuple[str | None, ...]
"""(size, colour, shape, place) of an object, or (word, place) of a written word."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_CLAUSE_END = re.compile(r"[,;]|\band\b", re.IGNORECASE)
_QUOTED = re.compile(r"[\"“]([^\"“”]+?)[.,]?[\"”]")


@dataclass(frozen=True, slots=True)
class FactCount:
    """How many distinct facts a caption states, how many of them are right, how many are true.

    `incomplete` of the stated ones leave a slot out but contradict nothing.
    """

    right: int
    stated: int
    true: int
    incomplete: int

    @property
    def contradicted(self) -> int:
        """Stated facts that no object in the scene agrees with."""
        return self.stated - self.right - self.incomplete


def stated_facts(caption: str, vocabulary: Vocabulary) -> set[Fact]:
    """The distinct facts a caption states."""
    facts: set[Fact] = set()
    for sentence in _SENTENCE_END.split(caption):
        for clause in _clauses(sentence, vocabulary):
            plain = _plain(clause)
            place = _first(plain, vocabulary.place)
            facts.update((word, place) for word in _QUOTED.findall(clause))
            if (shape := _first(plain, vocabulary.shape)) is not None:
                facts.add((_first(plain, vocabulary.size), _first(plain, vocabulary.colour), shape, place))
    return facts


def true_facts(scene: Mapping[str, Any]) -> set[Fact]:
    """The facts of a scene; raises DataError when a slot of the scene is missing."""
    try:
        facts: set[Fact] = {
            tuple(str(shown[slot]) for slot in ("size", "colour", "shape", "place"))
            for shown in scene["objects"]
        }
        if text := scene.get("text"):
            facts.add((str(text["word"]), str(text["place"])))
    except (KeyError, TypeError) as error:
        raise DataError(f"a scene needs objects with size, colour, shape and place: {error}") from None
    return facts


def count_facts(caption: str, scene: Mapping[str, Any], vocabulary: Vocabulary) -> FactCount:
    """Compare the facts of a caption with those of the scene."""
    stated, true = stated_facts(caption, vocabulary), true_facts(scene)
    incomplete = sum(None in fact for fact in stated - contradicted_facts(stated, true))
    return FactCount(right=len(stated & true), stated=len(stated), true=len(true), incomplete=incomplete)


def slot_balance(caption: str, scene: Mapping[str, Any], vocabulary: Vocabulary) -> int:
    """Right slots minus wrong ones: how much of what a caption says of sizes, colours, places and so on holds.

    Each stated fact is matched with the true one with which it has most slots in common, best fits first and
    each true fact once. A slot left open counts nothing, so that vague is neither right nor wrong; every
    slot of a fact that no object is left for is wrong. Unlike `count_facts`, which takes a fact as right
    with all of its slots or not at all, this tells a caption with one slip from one that is made up.
    """
    stated, true = sorted(stated_facts(caption, vocabulary), key=str), sorted(true_facts(scene), key=str)
    fits = sorted(
        ((_num_common(fact, truth), i, j) for i, fact in enumerate(stated) for j, truth in enumerate(true)),
        key=lambda fit: (-fit[0], *fit[1:]),
    )
    right, used, taken = 0, set[int](), set[int]()
    for common, i, j in fits:
        if i not in used and j not in taken:
            right += common
            used.add(i)
            taken.add(j)
    num_slots = sum(slot is not None for fact in stated for slot in fact)
    return 2 * right - num_slots


def contradicted_facts(stated: set[Fact], true: set[Fact]) -> set[Fact]:
    """The stated facts that no true one agrees with."""
    return {fact for fact in stated if not any(_agrees(fact, truth) for truth in true)}


def score(answer: str, reference: Reference) -> Row:
    """Counts of one caption and its own precision, recall and F1 (`score`)."""
    if reference.vocabulary is None:
        raise DataError("a caption task needs a [vocabulary] with size, colour, shape and place")
    count = count_facts(answer, reference.scene, reference.vocabulary)
    mean_size = (count.stated + count.true) / 2
    return {
        "score": count.right / mean_size if mean_size else 0.0,
        "precision": count.right / count.stated if count.stated else 0.0,
        "recall": count.right / count.true if count.true else 0.0,
        "right": float(count.right),
        "stated": float(count.stated),
        "true": float(count.true),
        "num_words": float(len(answer.split())),
    }


def metrics(totals: Columns) -> dict[str, FloatArray]:
    """Precision, recall and F1 over all facts of the corpus (micro), and mean caption length."""
    return {
        **precision_recall(totals["right"], totals["stated"], totals["true"]),
        "num_words": ratio(totals["num_words"], totals["n"]),
    }


def _clauses(sentence: str, vocabulary: Vocabulary) -> list[str]:
    """Parts of a sentence with one object each: a part that names none goes to the part before it."""
    clauses: list[str] = []
    names_object = False
    for part in _CLAUSE_END.split(sentence):
        part_names_object = bool(_QUOTED.search(part)) or _first(_plain(part), vocabulary.shape) is not None
        if clauses and not (part_names_object and names_object):
            clauses[-1] += f" {part}"
            names_object = names_object or part_names_object
        else:
            clauses.append(part)
            names_object = part_names_object
    return clauses


def _plain(clause: str) -> str:
    return " ".join(_QUOTED.sub(" ", clause).lower().split())


def _num_common(fact: Fact, truth: Fact) -> int:
    return sum(a == b for a, b in zip(fact, truth, strict=True)) if len(fact) == len(truth) else 0


def _agrees(fact: Fact, truth: Fact) -> bool:
    return len(fact) == len(truth) and all(a in (None, b) for a, b in zip(fact, truth, strict=True))


def _first(sentence: str, phrases: tuple[str, ...]) -> str | None:
    """The phrase that begins earliest as whole words; the longer one where two begin together."""
    pattern, by_lower = _any_of(phrases)
    match = pattern.search(sentence) if phrases else None
    return by_lower[match[0]] if match else None


@lru_cache(maxsize=64)
def _any_of(phrases: tuple[str, ...]) -> tuple[re.Pattern[str], Mapping[str, str]]:
    """A pattern of any of the phrases in lower case, longer ones tried first, and what each stands for."""
    by_lower = {phrase.lower(): phrase for phrase in sorted(phrases, reverse=True)}
    longest_first = sorted(by_lower, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b"), by_lower


FACTS = Scorer(name="facts", version="slots-1", headline="f1", score=score, metrics=metrics)
