"""A model that is asked questions through an engine, each of them once."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, TypeVar

from PIL import Image

from vila2cli.ask.kept_answers import Answers, answer_key, server_inputs
from vila2cli.engine import (
    Engine,
    EngineSettings,
    Failure,
    Request,
    Result,
    choose_engine,
    context_for,
    dtype_of,
    identify,
    open_engine,
)
from vila2cli.engine.keys import api_key
from vila2cli.engine.notes import NewNotes
from vila2cli.errors import BudgetError
from vila2cli.run.progress import Progress
from vila2cli.run.stopping import Stop
from vila2cli.settings import JudgeModelSettings
from vila2cli.shards.rejects import NO_ANSWER, OVER_BUDGET
from vila2cli.shards.sample import Turn
from vila2cli.text.refusals import refuses

_REASONS: dict[Failure, str] = {"request": "not-accepted", "unanswered": NO_ANSWER, "filtered": "refused"}

CUT = "cut"
"""Why there is no verdict where a reply reached max_new_tokens, or its reasoning did not end."""

_CUT_OFF = "it reached max_new_tokens; raise judge.max_new_tokens, or that of the judge's table"

Name = TypeVar("Name", bound=Hashable)
Count = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask about an image; `id` tells it from the others about the same image."""

    id: str
    text: str
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Inquiry(Generic[Name]):
    """A question by a name of its own, with the pictures and the shard that it is about."""

    name: Name
    question: Question
    shard: str
    images: tuple[Image.Image, ...] = ()
    image_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, or in `problem` why there is none: one word, and perhaps more behind a colon."""

    text: str = ""
    problem: str = ""

    @property
    def shown(self) -> str:
        """What a verdict keeps of it."""
        return f"({self.problem})" if self.problem else self.text

    @property
    def unread(self) -> str:
        """Why nothing could be made of it."""
        return self.problem or ("refused" if refuses(self.text) else "unparseable")


class AskedModel:
    """A model behind an engine, which is loaded when the first question has no answer yet."""

    def __init__(
        self, name: str, settings: JudgeModelSettings, max_new_tokens: int, answers: Answers, stop: Stop
    ) -> None:
        self.name, self._settings, self._answers, self._stop = name, settings, answers, stop
        self._max_new_tokens = max_new_tokens
        self._key = api_key(settings.api)
        self._engine_name = choose_engine(settings.engine, settings.model).kind
        self.model, self.model_sha256 = identify(self._engine_name, settings.model, settings.api)
        if self._engine_name != "api":
            self.model = settings.model
        self._dtype = dtype_of(self._engine_name, settings.model, settings.dtype)
        self._engine: Engine | None = None
        self._notes = NewNotes()
        self.spent = ""  # what was said when the budget ended

    def protocol(self) -> dict[str, Any]:
        """What decides the answers, beside the questions."""
        own = {} if self._settings.dtype == "auto" else self._dtype  # the weights decide their own
        return {
            "model_sha256": self.model_sha256,
            "engine": self._engine_name,
            "temperature": 0.0,
            "max_new_tokens": self._max_new_tokens,
            **own,
        }

    def sampling(self) -> dict[str, Any]:
        """How answers are generated, for an annotation."""
        return {
            "engine": self._engine_name,
            "temperature": 0.0,
            **self._dtype,
            "max_new_tokens": self._max_new_tokens,
        }

    def ask(
        self, inquiries: Iterable[Inquiry[Name]], count: Count, progress: Progress
    ) -> Iterator[tuple[Name, Reply]]:
        """Yield the reply to every question; what is not asked for want of budget says so.

        `count` takes in the tokens, requests and dollars of what is asked.
        """
        names: dict[str, Name] = {}
        dollars = self._dollars
        for result in self._answers.ask(
            self._requests(inquiries, names), lambda requests: self._generate(requests, count, progress)
        ):
            yield names.pop(result.id), _reply_of(result)
        if self._dollars > dollars:
            count(dollars=self._dollars - dollars)
        for name in names.values():
            yield name, Reply(problem=OVER_BUDGET)

    @property
    def _dollars(self) -> float:
        return 0.0 if self._engine is None else self._engine.dollars

    def _requests(
        self, inquiries: Iterable[Inquiry[Name]], names: dict[str, Name]
    ) -> Iterator[tuple[str, Request]]:
        """Requests with the keys of their answers; `names` takes in whose they are by their ids."""
        for number, one in enumerate(inquiries):
            names[str(number)] = one.name
            request = Request(
                id=str(number),
                messages=(Turn("user", one.question.text),),
                images=one.images,
                max_new_tokens=self._max_new_tokens,
                group=one.shard,
                schema=one.question.schema,
            )
            yield self._answer_key(one.question, one.image_sha256), request

    def _answer_key(self, question: Question, image_sha256: str) -> str:
        how = {
            "model_sha256": self.model_sha256,
            "engine": self._engine_name,
            **self._dtype,
            "max_new_tokens": self._max_new_tokens,
            "schema": question.schema,
            **(server_inputs(self._settings.api) if self._engine_name == "api" else {}),
        }
        return answer_key(how, question.text, image_sha256)

    def _generate(self, requests: Iterator[Request], count: Count, progress: Progress) -> Iterator[Result]:
        """Ask as long as the budget lasts, and go through all of `requests` in any case."""
        first = None if self.spent else next(requests, None)
        if first is not None:
            try:
                # chain does not close `requests` when the engine lets go of it
                engine = self._open(progress, len(first.images))
                for result in engine.generate(chain([first], requests)):
                    yield result
                    self._stop.check()
                    self._notes.tell(self._engine, progress.note)
                    count(tokens=result.num_tokens, requests=1)
            except BudgetError as error:
                self.spent = str(error)
                progress.note(f"{self.name}: {error}")
        for _ in requests:
            pass

    def _open(self, progress: Progress, num_images: int) -> Engine:
        """The engine, opened for requests with so many images."""
        if self._engine is None:
            settings = EngineSettings(
                dtype=self._settings.dtype,
                max_model_len=context_for(num_images),
                api=self._settings.api,
                api_key=self._key,
                fails_alone=True,
            )
            self._engine = open_engine(self._engine_name, self._settings.model, settings, self._stop)
            self._notes.tell(self._engine, progress.note)
        return self._engine


def _reply_of(result: Result) -> Reply:
    """A result as a judge's reply."""
    if result.error is None:
        return Reply(problem=f"{CUT}: {_CUT_OFF}") if result.is_cut else Reply(result.answer.text)
    return Reply(problem=f"{_REASONS[result.failure or 'request']}: {result.error}")
