"""Yes/no questions, scored as POPE scores them (rule of LLaVA's eval_pope.py, which VILA uses)."""

import re

from vila2cli.errors import DataError
from vila2cli.score.scorer import Reference, Row, Scorer
from vila2cli.score.stats import Columns, FloatArray, ratio

_DENIALS = frozenset({"No", "no", "not"})
_CLEAR = re.compile(r"\b(yes|no|not)\b", re.IGNORECASE)


def says_yes(answer: str, separator: str | None = None) -> bool:
    """Whether the text before the first full stop holds none of the words No, no, not: all else is a yes.

    Words are cut at the separator, by default at any white space.
    """
    first_sentence = answer.split(".")[0].replace(",", "")
    return _DENIALS.isdisjoint(first_sentence.split(separator))


def truth(reference: Reference) -> str:
    """The reference answer, yes or no; raises DataError when it is neither."""
    found = reference.answers[0].strip().lower() if len(reference.answers) == 1 else ""
    if found not in ("yes", "no"):
        raise DataError(f"a yes/no question needs one answer, yes or no, not {list(reference.answers)}")
    return found


def score(answer: str, reference: Reference) -> Row:
    """Compare with a reference answer of `yes` or `no`."""
    return row(answer, reference, says_yes(answer))


def row(answer: str, reference: Reference, said_yes: bool) -> Row:
    """Counts of one answer that was read as yes or no; `unclear` marks answers with neither word."""
    is_yes = truth(reference) == "yes"
    return {
        "score": float(is_yes == said_yes),
        "is_yes": float(is_yes),
        "says_yes": float(said_yes),
        "both_yes": float(is_yes and said_yes),
        "unclear": float(_CLEAR.search(answer) is None),
    }


def metrics(totals: Columns) -> dict[str, FloatArray]:
    """Accuracy, and precision, recall and F1 of "yes"."""
    return {
        "accuracy": ratio(totals["score"], totals["n"]),
        "precision": ratio(totals["both_yes"], totals["says_yes"]),
        "recall": ratio(totals["both_yes"], totals["is_yes"]),
        "f1": ratio(2 * totals["both_yes"], totals["says_yes"] + totals["is_yes"]),
        "yes_ratio": ratio(totals["says_yes"], totals["n"]),
        "unclear_ratio": ratio(totals["unclear"], totals["n"]),
    }


YESNO = Scorer(name="yesno", version="pope-1", headline="accuracy", score=score, metrics=metrics)
