"""AMBER (Wang et al. 2023): hallucinations in descriptions, and in answers of which "no" is the positive one.

Descriptions: CHAIR is the share of named objects that are not there, Cover that of the objects there that are
named, Hal the share of descriptions with one that is not there, Cog how much of what people would expect there,
and is not, is named. AMBER finds objects with NLTK's tagger and forgives what spaCy's vectors call alike; here
they are words of its own list, in the singular, so the figures are near to its own and not the same.
"""

import re
from collections.abc import Sequence

from vila2cli.errors import DataError
from vila2cli.score.chair import singular
from vila2cli.score.grouping import categories, category_label, precision_recall, tally
from vila2cli.score.scorer import Reference, Row, Scorer
from vila2cli.score.stats import Columns, FloatArray, ratio
from vila2cli.score.yesno import truth_of

_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")
_NO_NOUNS = frozenset(("can", "hot"))


def score_answer(answer: str, reference: Reference) -> Row:
    """Counts of one answer, which has to be Yes or No and nothing else, as in AMBER's own code."""
    is_no, says_no = truth_of(reference) == "no", answer == "No"
    return {
        "score": float(answer == ("No" if is_no else "Yes")),
        "is_no": float(is_no),
        "says_no": float(says_no),
        "both_no": float(is_no and says_no),
        "unparsed": float(answer not in ("Yes", "No")),
    }


def answer_metrics(totals: Columns) -> dict[str, FloatArray]:
    """Accuracy, and precision, recall and F1 of "no": of all, and by dimension, such as existence."""
    by_dimension = [_of_no(totals, f":{name}", totals[f"num:{name}"]) for name in categories(totals)]
    metrics = _of_no(totals, "", totals["n"]) | {"unparsed_ratio": ratio(totals["unparsed"], totals["n"])}
    return metrics | {name: value for own in by_dimension for name, value in own.items()}


def _of_no(totals: Columns, end: str, num: FloatArray) -> dict[str, FloatArray]:
    is_no, says_no, both_no = (totals[f"{name}{end}"] for name in ("is_no", "says_no", "both_no"))
    shares = {"accuracy": ratio(totals[f"score{end}"], num), **precision_recall(both_no, says_no, is_no)}
    return {f"{name}{end}": value for name, value in shares.items()}


def score_description(answer: str, reference: Reference) -> Row:
    """What a description names of the objects there, of those expected, and of neither."""
    truth, expected = (_groups(reference, key) for key in ("truth", "hallu"))
    known, harmless = (set(_texts(reference, key)) for key in ("objects", "safe_words"))
    known |= {word for group in (*truth, *expected) for word in group}
    covered, wrong, absent, named = set[int](), set[int](), 0, 0
    for word in _WORD.findall(answer.lower()):
        noun = word if word in known else singular(word, known)
        if noun not in known or noun in _NO_NOUNS:
            continue
        named += 1
        if noun in harmless:
            continue
        if (place := _place(noun, truth)) is not None:
            covered.add(place)
            continue
        absent += 1
        if (place := _place(noun, expected)) is not None:
            wrong.add(place)
    return {
        "score": float(absent == 0),
        "named": float(named),
        "absent": float(absent),
        "covered": float(len(covered)),
        "there": float(len(truth)),
        "wrong": float(len(wrong)),
        "expected": float(len(expected)),
    }


def _place(noun: str, groups: Sequence[Sequence[str]]) -> int | None:
    """The object that a noun stands for: first by what goes with one, then by its name, as AMBER looks."""
    places = [place for place, group in enumerate(groups) if noun in group[1:]]
    places += [place for place, group in enumerate(groups) if noun == group[0]]
    return places[0] if places else None


def _groups(reference: Reference, key: str) -> list[list[str]]:
    """Objects with the words that go with them; raises DataError for another form."""
    groups = reference.meta.get(key)
    if not isinstance(groups, list) or not all(isinstance(group, list) and group for group in groups):
        raise DataError(f"AMBER needs {key!r} in its JSON, a list of objects with their other names")
    return [list(map(str, group)) for group in groups]


def _texts(reference: Reference, key: str) -> list[str]:
    values = reference.meta.get(key, [])
    if not isinstance(values, list):
        raise DataError(f"AMBER needs {key!r} in its JSON, a list of words")
    return list(map(str, values))


def description_metrics(totals: Columns) -> dict[str, FloatArray]:
    """CHAIR, Hal and Cog (lower is better), and Cover, as shares."""
    return {
        "chair": ratio(totals["absent"], totals["named"]),
        "cover": ratio(totals["covered"], totals["there"]),
        "hal": ratio(totals["n"] - totals["score"], totals["n"]),
        "cog": ratio(totals["wrong"], totals["expected"]),
        "objects_named": ratio(totals["named"], totals["n"]),
    }


AMBER_YESNO = Scorer(
    name="amber-yesno",
    version="amber-1",
    headline="f1",
    score=score_answer,
    metrics=answer_metrics,
    labels=category_label,
    complete=tally("score", "is_no", "says_no", "both_no"),
    rule="AMBER's inference.py, before it rounds: 'no' is the positive class",
    unread="counted as wrong, as AMBER's code counts all but 'Yes' and 'No' alone",
)
AMBER = Scorer(
    name="amber",
    version="amber-1",
    headline="chair",
    score=score_description,
    metrics=description_metrics,
    is_share=False,
    rule="AMBER's inference.py: CHAIR, Cover, Hal and Cog of its own words",
    deviation="objects are words of AMBER's list in the singular; AMBER asks NLTK's tagger and spaCy's vectors",
)
