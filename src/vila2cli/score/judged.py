"""Benchmarks whose answers a judge scores: MM-Vet, and LLaVA-Bench (in the wild)."""

import math
import re
from collections.abc import Callable, Mapping

from vila2cli.errors import DataError
from vila2cli.score.grouping import categories, category_label, category_share, tally, text_of
from vila2cli.score.scorer import Labels, Marking, Reference, Row, Scorer
from vila2cli.score.stats import Columns, FloatArray, ratio
from vila2cli.text.bare import bare

_CAPABILITIES = "capabilities"
_RANGE = (1.0, 10.0)
_LABEL = re.compile(r"\b(?:marks?|scores?|assistant [12])\s*[:=]", re.IGNORECASE)


def mmvet_slots(answer: str, reference: Reference) -> dict[str, str]:
    """Question, ground truth with its <AND> and <OR>, and answer, by the prompt's names for them."""
    if len(reference.answers) != 1 or not text_of(reference, "question"):
        raise DataError("a question of MM-Vet needs its 'question' and one answer in its JSON")
    return {"question": text_of(reference, "question"), "truth": reference.answers[0], "answer": answer}


def read_mmvet(reply: str) -> Row | None:
    """The score from 0.0 to 1.0 that a reply begins with, as in MM-Vet's evaluator, None without one."""
    words = _LABEL.sub(" ", bare(reply)).split()
    score = _number(words[0].rstrip(".,;")) if words else math.nan
    return {"score": score} if 0.0 <= score <= 1.0 else None


def mmvet_labels(reference: Reference) -> Labels:
    """The capabilities that a question needs, joined by +."""
    names = reference.meta.get("capability")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError("a question of MM-Vet needs the list of its capabilities as 'capability' in its JSON")
    return {_CAPABILITIES: "+".join(sorted(names))}


def mmvet_metrics(totals: Columns) -> dict[str, FloatArray]:
    """100 times the mean score, of all questions and of those that need each capability."""
    return {
        "total": 100 * ratio(totals["score"], totals["n"]),
        **{f"total:{name}": 100 * category_share(totals, name) for name in sorted(categories(totals))},
    }


def llava_bench_slots(answer: str, reference: Reference) -> dict[str, str]:
    """What is known of the image, the question, the reference answer and the answer."""
    context, question = (text_of(reference, name) for name in ("context", "question"))
    if len(reference.answers) != 1 or not context or not question:
        raise DataError(
            "a question of LLaVA-Bench needs its 'question', 'context' and one answer in its JSON: import its "
            "questions.jsonl, context.jsonl and answers_gpt4.jsonl together"
        )
    return {"context": context, "question": question, "first": reference.answers[0], "second": answer}


def read_llava_bench(reply: str) -> Row | None:
    """The two scores from 1 to 10 on the first line of a reply: of the reference, and of the answer."""
    words = _LABEL.sub(" ", bare(reply).partition("\n")[0]).replace(",", " ").split()
    low, high = _RANGE
    scores = [_number(word) for word in words]
    if len(scores) != 2 or not all(low <= score <= high for score in scores):
        return None
    return {"score": scores[1] / high, "reference": scores[0]}


def llava_bench_metrics(totals: Columns) -> dict[str, FloatArray]:
    """The answers' scores in per cent of the reference's, over all and by category, and the mean scores."""
    high = _RANGE[1]
    return {
        "relative": 100 * high * ratio(totals["score"], totals["reference"]),
        "mark": high * ratio(totals["score"], totals["n"]),
        "reference_mark": ratio(totals["reference"], totals["n"]),
        **{
            f"relative:{name}": 100 * high * category_share(totals, name, count="reference")
            for name in sorted(categories(totals))
        },
    }


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def _unmarked(slots: Callable[[str, Reference], Mapping[str, str]]) -> Callable[[str, Reference], Row]:
    """The row of an answer before a judge has seen it: nothing, but the reference is checked."""

    def check(answer: str, reference: Reference) -> Row:
        slots(answer, reference)
        return {}

    return check


MMVET = Scorer(
    name="mmvet",
    version="mmvet-1",
    headline="total",
    score=_unmarked(mmvet_slots),
    metrics=mmvet_metrics,
    labels=mmvet_labels,
    complete=tally("score", label=_CAPABILITIES, separator="+"),
    is_share=False,
    tops=lambda metric, totals: 100.0,
    rule="MM-Vet's marks from 0 to 1 by a judge",
    deviation="MM-Vet's own figures are by gpt-4-0613 and its own prompt, which is worded otherwise here",
    marking=Marking(prompt="judge-mmvet-v1", slots=mmvet_slots, read=read_mmvet),
)
LLAVA_BENCH = Scorer(
    name="llava-bench",
    version="llava-bench-1",
    headline="relative",
    score=_unmarked(llava_bench_slots),
    metrics=llava_bench_metrics,
    labels=category_label,
    complete=tally("score", "reference"),
    is_share=False,
    rule="LLaVA-Bench's marks relative to those of GPT-4's answers by a judge",
    deviation="LLaVA-Bench's own figures are by gpt-4-0314 and its own prompt, which is worded otherwise here",
    marking=Marking(prompt="judge-llava-bench-v1", slots=llava_bench_slots, read=read_llava_bench),
)
