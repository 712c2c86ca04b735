"""What a judge is asked about the captions of one image, and what its answers say.

pair       which of two captions is better, in both orders; a verdict that changes with the order is a tie
rubric     marks from 1 to 5 for one caption at a time; the higher mean wins a pair
sentences  for each sentence of one caption whether the image supports it; the lower share of
           unsupported ones wins a pair (VILA^2 table 8 asks people for hallucinations)

Of an answer to a pair is read what `score.verdict.parse_choice` says, of the others the only JSON object in it
that fits the schema; anything else is `unparseable` and leaves the pair unjudged.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from vila2cli.engine import Request, Result
from vila2cli.judging.results import problem_of, shown, why_unread
from vila2cli.score.verdict import Outcome, Pair, Verdict, outcome_of, parse_choice
from vila2cli.settings.recipe import Recipe
from vila2cli.shards.sample import Turn
from vila2cli.text.bare import one_object
from vila2cli.text.compose import neutral
from vila2cli.text.prompts import fill, prompt_text
from vila2cli.text.words import sentences

Captions = Mapping[str, str]
"""Caption by layer, of one image."""
CRITERIA = ("correctness", "completeness", "specificity")
MARKS = ("supported", "unsupported", "unsure")
DEFAULT_PROMPTS = {"pair": "judge-pair-v1", "rubric": "judge-rubric-v1", "sentences": "judge-sentences-v1"}
_MAX_MARK = 5


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdicts on one image and, where captions are judged one by one, what was said of each."""

    verdicts: tuple[Verdict, ...]
    captions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class JudgeProtocol(ABC):
    """A way to ask and to read."""

    name = ""

    def __init__(self, template: str) -> None:
        self._template = template

    @abstractmethod
    def requests(self, blank: Request, captions: Captions, pairs: Sequence[Pair]) -> list[Request]:
        """What to ask about one image, as variants of a request; captions that are equal are not compared."""

    @abstractmethod
    def read(self, judge: str, captions: Captions, pairs: Sequence[Pair], results: Sequence[Result]) -> Judged:
        """The verdicts of a judge from the results of the requests, in their order."""


def prompt_id(recipe: Recipe) -> str:
    """The prompt that the recipe judges with."""
    return recipe.judge.prompt or DEFAULT_PROMPTS[recipe.judge.protocol]


def open_protocol(recipe: Recipe) -> JudgeProtocol:
    """The protocol of a recipe; raises RecipeError for a prompt that is not known."""
    kinds: tuple[type[JudgeProtocol], ...] = (PairProtocol, RubricProtocol, SentenceProtocol)
    kind = next(kind for kind in kinds if kind.name == recipe.judge.protocol)
    return kind(prompt_text(prompt_id(recipe), recipe.prompts))


def asks_for_json(recipe: Recipe) -> bool:
    """Whether the prompt wants JSON; then the engine is told the schema."""
    return "JSON" in prompt_text(prompt_id(recipe), recipe.prompts)


def make_verdict(
    captions: Captions,
    pair: Pair,
    judge: str,
    outcome: Outcome,
    answers: tuple[str, ...] = (),
    reason: str = "",
) -> Verdict:
    layer, against = pair
    words = (len(captions[layer].split()), len(captions[against].split()))
    return Verdict(
        layer=layer,
        against=against,
        judge=judge,
        outcome=outcome,
        num_words=words,
        answers=answers,
        reason=reason if outcome == "unjudged" else "",
        equal=captions[layer] == captions[against],
    )


class PairProtocol(JudgeProtocol):
    """Two captions side by side, in both orders."""

    name = "pair"

    def requests(self, blank: Request, captions: Captions, pairs: Sequence[Pair]) -> list[Request]:
        answer = _object({"better": {"type": "string", "enum": ["A", "B", "tie"]}})
        schema = answer if "JSON" in self._template else None
        texts = [
            fill(self._template, a=_quoted(captions[first]), b=_quoted(captions[second]))
            for pair in pairs
            if captions[pair[0]] != captions[pair[1]]
            for first, second in (pair, pair[::-1])
        ]
        return [_asking(blank, text, schema) for text in texts]

    def read(self, judge: str, captions: Captions, pairs: Sequence[Pair], results: Sequence[Result]) -> Judged:
        verdicts, remaining = [], iter(results)
        for pair in pairs:
            if captions[pair[0]] == captions[pair[1]]:
                verdicts.append(make_verdict(captions, pair, judge, "tie"))
                continue
            both = (next(remaining), next(remaining))
            unread = (one for one in both if problem_of(one) or not parse_choice(one.answer.text))
            reason = next(map(why_unread, unread), "")
            outcome = "unjudged" if reason else outcome_of(*(one.answer.text for one in both))
            verdicts.append(make_verdict(captions, pair, judge, outcome, tuple(map(shown, both)), reason))
        return Judged(tuple(verdicts))


class _OneByOne(JudgeProtocol):
    """Captions judged alone; a pair goes to the one with the higher score."""

    def requests(self, blank: Request, captions: Captions, pairs: Sequence[Pair]) -> list[Request]:
        return [self._request(blank, text) for text in captions.values()]

    def read(self, judge: str, captions: Captions, pairs: Sequence[Pair], results: Sequence[Result]) -> Judged:
        about = {
            name: self._about(text, result)
            for (name, text), result in zip(captions.items(), results, strict=True)
        }
        verdicts = []
        for pair in pairs:
            score, against = (about[name].get("score") for name in pair)
            outcome: Outcome = "unjudged"
            if score is not None and against is not None:
                outcome = "win" if score > against else "loss" if score < against else "tie"
            reason = next((str(about[name]["problem"]) for name in pair if "problem" in about[name]), "")
            verdicts.append(make_verdict(captions, pair, judge, outcome, reason=reason))
        return Judged(tuple(verdicts), about)

    @abstractmethod
    def _request(self, blank: Request, text: str) -> Request:
        """What to ask about a caption."""

    def _about(self, text: str, result: Result) -> dict[str, Any]:
        """What is known of a caption: `score`, higher is better, or `problem`; and the raw `answer`."""
        value = None if problem_of(result) else one_object(result.answer.text)
        read = None if value is None else self._read_one(text, value)
        return {**(read or {"problem": why_unread(result)}), "answer": shown(result)}

    @abstractmethod
    def _read_one(self, text: str, value: Mapping[str, Any]) -> dict[str, Any] | None:
        """What an answer's JSON says of a caption, None where it does not fit."""


class RubricProtocol(_OneByOne):
    """Marks from 1 to 5 by criterion."""

    name = "rubric"

    def _request(self, blank: Request, text: str) -> Request:
        mark = {"type": "integer", "enum": list(range(1, _MAX_MARK + 1))}
        prompt = fill(self._template, caption=_quoted(text))
        return _asking(blank, prompt, _object(dict.fromkeys(CRITERIA, mark)))

    def _read_one(self, text: str, value: Mapping[str, Any]) -> dict[str, Any] | None:
        marks = {name: value.get(name) for name in CRITERIA}
        if not all(type(mark) is int and 1 <= mark <= _MAX_MARK for mark in marks.values()):
            return None
        return {"score": fmean(mark or 0 for mark in marks.values()), "marks": marks}


class SentenceProtocol(_OneByOne):
    """Each sentence held against the image."""

    name = "sentences"

    def _request(self, blank: Request, text: str) -> Request:
        pieces = sentences(text)
        numbered = "\n".join(f"{number}. {_quoted(piece)}" for number, piece in enumerate(pieces, 1))
        marks = {
            "type": "array",
            "items": {"type": "string", "enum": list(MARKS)},
            "minItems": len(pieces),
            "maxItems": len(pieces),
        }
        return _asking(blank, fill(self._template, sentences=numbered), _object({"marks": marks}))

    def _read_one(self, text: str, value: Mapping[str, Any]) -> dict[str, Any] | None:
        marks, pieces = value.get("marks"), sentences(text)
        if not isinstance(marks, list) or len(marks) != len(pieces) or not all(m in MARKS for m in marks):
            return None
        supported, unsupported = marks.count("supported"), marks.count("unsupported")
        marked = [{"sentence": piece, "mark": mark} for piece, mark in zip(pieces, marks, strict=True)]
        known = {"sentences": marked, "supported": supported, "unsupported": unsupported}
        if not supported + unsupported:
            return {**known, "problem": "unsure"}
        return {**known, "score": supported / (supported + unsupported)}


def _asking(blank: Request, prompt: str, schema: Mapping[str, Any] | None) -> Request:
    return replace(blank, messages=(Turn("user", prompt),), schema=schema)


def _quoted(text: str) -> str:
    """A caption on one line, so that no line of a prompt is its own."""
    return " ".join(neutral(text).split())


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
