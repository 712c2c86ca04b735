"""Yes/no questions: one's own, POPE's (LLaVA's eval_pope, as VILA), MME, HallusionBench, true or false."""

import re
from dataclasses import replace

from vila2cli.errors import DataError
from vila2cli.score.grouping import (
    LabelGroup,
    categories,
    category_label,
    category_metrics,
    category_share,
    group_name,
    means,
    precision_recall,
    tally,
    text_of,
)
from vila2cli.score.scorer import Labels, Reference, Row, Scorer
from vila2cli.score.stats import Columns, FloatArray, ratio
from vila2cli.score.vqa import strip_punctuation
from vila2cli.text.bare import bare
from vila2cli.text.refusals import refuses

_DENIALS = frozenset({"No", "no", "not"})
_CLEAR = re.compile(r"\b(yes|no|not)\b", re.IGNORECASE)
_WORD = re.compile(r"[a-z]+")
_NOT_TRUE = re.compile(r"(?:\bnot|n['’]t|\bun)\s*true\b", re.IGNORECASE)
_NOT_FALSE = re.compile(r"(?:\bnot|n['’]t)\s*false\b", re.IGNORECASE)
_SAID = (
    r"(?:(?P<yes>yes|yeah|yep|ja|oui|sí|si|sim|da(?!\s+(?:ist|sind|war))|да)|(?P<no>no|nope|nein|non|nee|não|нет))"
    r"\b(?!-\w)|(?P<yes_>是|对|對|有|はい|예|네)|(?P<no_>否|不|没|沒|いいえ|아니)"
)
_FIRST = re.compile(rf"\W*(?:{_SAID})(?!\W+(?:and|or)\W+(?:yes|no)\b)", re.IGNORECASE)
_NAMED = re.compile(
    rf"(?:\b(?:answer|antwort|réponse|respuesta|risposta|resposta|ответ)|答案|答え)\W{{0,6}}"
    rf"(?:(?:is|would be|ist|est|es|è|é)\b|为|是(?!$)|は)?\W{{0,8}}(?:{_SAID})",
    re.IGNORECASE,
)
_LAST = re.compile(
    r"(?:\b(?:so|thus|hence|therefore)\b|[.!?])\W+(?:(?P<yes>yes)|(?P<no>no))\b[^\w?]*$"
    r"|,\s*(?P<yes_>yes)\b[^\w?]*$",
    re.IGNORECASE,
)
_APOLOGY = re.compile(
    r"\W*(?:unfortunately|(?:i['’]?\s?a?m )?(?:so |very )?(?P<sorry>sorry))\b\W*(?:but\b\W*)?", re.IGNORECASE
)
_SENTENCE = re.compile(r"[^.!?\n]*")
_CANNOT = r"(?:cannot|can not|can['’]t|unable to|not able to)"
_UNSURE = re.compile(
    r"\bun(?:sure|clear|certain)\b|\bnot (?:sure|clear|certain|enough|know)\b|n['’]t (?:know|sure|clear)\b"
    rf"|(?:{_CANNOT}|(?:impossible|hard|difficult) to) (?:be sure|determine|tell|say|know)\b"
    r"|\byes\W+(?:and|or)\W+no\b|\bno\W+(?:and|or)\W+yes\b"
    r"|\bno (?:image|picture|photo)s?\b(?=\W*$| (?:was|is|has|attached|provided|available|given|uploaded)\b)",
    re.IGNORECASE,
)
_UNSEEN = re.compile(
    rf"(?:\bthere(?:['’]s|\s(?:is|are))\sno|(?:{_CANNOT}|do not|don['’]t) see (?:an?|any))\b"
    r"(?!\s+(?:image|picture|photo)s?\b)",
    re.IGNORECASE,
)
_DENIES = re.compile(
    r"\b(?:no|not|none|never|neither|nor|nobody|nothing|cannot|kein\w*|nicht|aucun\w*|pas|ning[uú]n\w*|nessun\w*"
    r"|nenhum\w*|geen|niet)\b|n['’]t\b",
    re.IGNORECASE,
)
_TRUE, _FALSE = frozenset(("true", "yes")), frozenset(("false", "no"))

_COARSE = ("existence", "count", "position", "color")
_FINE = ("posters", "celebrity", "scene", "landmark", "artwork")
PERCEPTION = (*_COARSE, *_FINE, "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
"""The subtasks of MME, by the names of its folders."""


def says_yes(answer: str, separator: str | None = None) -> bool:
    """Whether the text before the first full stop holds none of the words No, no, not: all else is a yes.

    Words are cut at the separator, by default at any white space.
    """
    first_sentence = answer.split(".")[0].replace(",", "")
    return _DENIALS.isdisjoint(first_sentence.split(separator))


def truth_of(reference: Reference) -> str:
    """The reference answer, yes or no; raises DataError when it is neither."""
    truth = reference.answers[0].strip().lower() if len(reference.answers) == 1 else ""
    if truth not in ("yes", "no"):
        raise DataError(f"a yes/no question needs one answer, yes or no, not {list(reference.answers)}")
    return truth


def reads_yes(answer: str) -> bool | None:
    """What an answer says: by the word that it names, begins or ends with, else by its first sentence.

    This says no where it denies anything. None for nothing, a refusal, and where the answer does not know.
    """
    text = bare(answer)
    opening = _APOLOGY.match(text)
    told = text[opening.end() :] if opening else text
    said = next(reversed(list(_NAMED.finditer(told))), None) or _FIRST.match(told) or _LAST.search(told)
    if said is not None:
        return bool(said["yes"] or said["yes_"])
    sentence = _SENTENCE.match(told)
    first = sentence[0] if sentence else ""
    if _UNSEEN.search(first):
        return False
    if not told or _UNSURE.search(first) or refuses(told) or (opening and opening["sorry"] and refuses(text)):
        return None
    return _DENIES.search(first) is None


def score(answer: str, reference: Reference) -> Row:
    """Compare with a reference answer of `yes` or `no`; no answer is wrong, and neither of the two."""
    said = reads_yes(answer)
    counted = row(answer, reference, said is True)
    return counted if said is not None else {**counted, "score": 0.0}


def row(answer: str, reference: Reference, said_yes: bool) -> Row:
    """Counts of one answer that was read as yes or no; `unclear` marks answers with neither word."""
    is_yes = truth_of(reference) == "yes"
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
        **precision_recall(totals["both_yes"], totals["says_yes"], totals["is_yes"]),
        **means(yes_ratio="says_yes", unclear_ratio="unclear")(totals),
    }


def score_pope(answer: str, reference: Reference) -> Row:
    """Counts for accuracy, precision, recall, F1 and yes-ratio of one answer, its words cut at spaces alone."""
    return row(answer, reference, says_yes(answer, " "))


def mme_label(answer: str) -> str:
    """MME: yes or no where the answer is it, or its first four letters hold it; else other."""
    text = answer.lower()
    if text in ("yes", "no"):
        return text
    return next((word for word in ("yes", "no") if word in text[:4]), "other")


def score_mme(answer: str, reference: Reference) -> Row:
    """1 when the label is right; "other" never is."""
    label = mme_label(answer)
    return {"score": float(label == truth_of(reference)), "other": float(label == "other")}


def mme_labels(reference: Reference) -> Labels:
    """The image, whose two questions count together, in its subtask."""
    category = text_of(reference, "category")
    if not category:
        raise DataError("an MME question needs its subtask as 'category' in its JSON")
    return {"category": category, "image": f"{category}/{group_name(reference, 'image')}"}


def mme_metrics(totals: Columns) -> dict[str, FloatArray]:
    """100 times accuracy plus accuracy+ for each subtask, and their sums for perception and cognition."""
    points = {
        name: 100 * (category_share(totals, name) + category_share(totals, name, "both", "images"))
        for name in categories(totals)
    }
    nothing = totals["score"] * 0.0
    return {
        "perception": sum((points[name] for name in PERCEPTION if name in points), nothing),
        "cognition": sum((points[name] for name in COGNITION if name in points), nothing),
        "accuracy": ratio(totals["score"], totals["n"]),
        "accuracy_plus": ratio(_sum(totals, "both:"), _sum(totals, "images:")),
        "other_ratio": ratio(totals["other"], totals["n"]),
        **{f"points:{name}": value for name, value in points.items()},
    }


def mme_top(metric: str, totals: Columns) -> float:
    """200 points a subtask; the others are shares."""
    subtasks = {"perception": PERCEPTION, "cognition": COGNITION}.get(metric)
    if subtasks is not None:
        return 200.0 * sum(f"num:{name}" in totals for name in subtasks)
    return 200.0 if metric.startswith("points:") else 1.0


def hallusion_label(answer: str) -> str:
    """Yes or no where the words hold the one and not the other; else unknown (VLMEvalKit)."""
    words = strip_punctuation(answer.lower()).split()
    is_yes, is_no = "yes" in words, "no" in words
    return "unknown" if is_yes == is_no else "yes" if is_yes else "no"


def score_hallusion(answer: str, reference: Reference) -> Row:
    """1 when the label is right, or unknown where no figure is shown to know it from (VS, figure 0)."""
    label = hallusion_label(answer)
    is_unknown = label == "unknown"
    right = label == truth_of(reference) or (is_unknown and not _has_figure(reference))
    return {"score": float(right), "unparsed": float(is_unknown)}


def hallusion_labels(reference: Reference) -> Labels:
    """The figure and the question of a sample, and the set in which both lie.

    A question without a figure is in none, as in HallusionBench's own code.
    """
    where = ("category", "subcategory", "set_id")
    labels = {"set": group_name(reference, *where), "question": group_name(reference, *where, "question_id")}
    if _has_figure(reference):
        labels["figure"] = group_name(reference, *where, "figure_id")
    return labels


def _has_figure(reference: Reference) -> bool:
    return (text_of(reference, "category"), text_of(reference, "figure_id")) != ("VS", "0")


def hallusion_metrics(totals: Columns) -> dict[str, FloatArray]:
    """aAcc over answers, fAcc over figures, qAcc over questions, and their mean."""
    shares = {
        "aAcc": ratio(totals["score"], totals["n"]),
        "fAcc": ratio(totals["figure_right"], totals["figures"]),
        "qAcc": ratio(totals["question_right"], totals["questions"]),
    }
    mean = sum(shares.values(), totals["score"] * 0.0) / len(shares)
    return {"mean": mean, **shares, "unparsed_ratio": ratio(totals["unparsed"], totals["n"])}


def score_truth(answer: str, reference: Reference) -> Row:
    """A statement about an image: the first of true, yes, false and no in the answer decides."""
    truth = reference.answers[0].strip().lower() if len(reference.answers) == 1 else ""
    if truth not in _TRUE | _FALSE:
        raise DataError(f"a statement needs one answer, true or false, not {list(reference.answers)}")
    text = _NOT_FALSE.sub(" true", _NOT_TRUE.sub(" false", answer))
    stated = next((word for word in _WORD.findall(text.lower()) if word in _TRUE | _FALSE), "")
    is_right = stated != "" and (stated in _TRUE) == (truth in _TRUE)
    return {"score": float(is_right), "unparsed": float(not stated)}


def _sum(totals: Columns, prefix: str) -> FloatArray:
    return sum((value for name, value in totals.items() if name.startswith(prefix)), totals["score"] * 0.0)


YESNO = Scorer(name="yesno", version="yesno-2", headline="accuracy", score=score, metrics=metrics)
POPE = replace(YESNO, name="pope", version="pope-2", headline="f1", score=score_pope, rule="LLaVA's eval_pope")
MME = Scorer(
    name="mme",
    version="mme-1",
    headline="perception",
    score=score_mme,
    metrics=mme_metrics,
    labels=mme_labels,
    complete=tally("score", groups=[LabelGroup("image", right="both", count="images", by_category=True)]),
    unit="image",
    is_share=False,
    tops=mme_top,
    rule="MME's calculation.py",
)
HALLUSION = Scorer(
    name="hallusionbench",
    version="hallusion-2",
    headline="mean",
    score=score_hallusion,
    metrics=hallusion_metrics,
    labels=hallusion_labels,
    complete=tally(
        groups=[
            LabelGroup("figure", right="figure_right", count="figures"),
            LabelGroup("question", right="question_right", count="questions"),
        ]
    ),
    unit="set",
    rule="HallusionBench's accuracies with VLMEvalKit's yes/no rule",
    deviation="HallusionBench's own code has GPT-4 judge each answer",
)
TRUTH = Scorer(
    name="truth",
    version="truth-2",
    headline="accuracy",
    score=score_truth,
    metrics=category_metrics,
    labels=category_label,
    complete=tally("score"),
    rule="accuracy of true/false, as VSR and NLVR report",
    deviation="VSR and NLVR have no rule for generated answers; here the first of true, yes, false, no",
)
