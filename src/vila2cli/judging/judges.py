"""Who judges: the world's oracle, and models that are asked through an engine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol

from vila2cli.engine import (
    Engine,
    EngineSettings,
    Request,
    Result,
    choose_engine,
    dtype_of,
    identify,
    open_engine,
)
from vila2cli.errors import BudgetError, DataError, RecipeError
from vila2cli.image import decode_image
from vila2cli.judging.answers import OVER_BUDGET, Answers, answer_key, reply_of
from vila2cli.judging.protocols import (
    Judged,
    Question,
    Reply,
    asks_for_json,
    make_verdict,
    open_protocol,
    prompt_id,
)
from vila2cli.progress import Progress
from vila2cli.recipe import Recipe
from vila2cli.run import api_key
from vila2cli.sample import Annotation, Reject, Sample, Turn
from vila2cli.score.caption import count_facts
from vila2cli.score.pairing import Draw
from vila2cli.score.scorer import Vocabulary
from vila2cli.score.verdict import oracle_outcome
from vila2cli.settings import JudgeModelSettings
from vila2cli.shards import Shard, ShardWriter
from vila2cli.stopping import Stop
from vila2cli.text.prompts import prompt_sha256
from vila2cli.world.scenes import VOCABULARY

ORACLE, MODEL = "oracle", "model"
_MIN_JSON_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Contest:
    """One drawn sample with its caption by layer."""

    sample: Sample
    captions: Mapping[str, str]


class Judge(Protocol):
    """One judge, whose verdicts are a layer of their own."""

    name: str

    def protocol(self) -> dict[str, Any]:
        """What decides its verdicts beside the captions."""
        ...

    def sign(self, annotation: Annotation) -> Annotation:
        """The annotation with where its verdicts come from."""
        ...

    def judge(
        self, draw: Draw, shard: Shard, contests: Sequence[Contest], writing: ShardWriter, progress: Progress
    ) -> dict[str, Judged]:
        """Verdicts by key; a sample that cannot be judged at all is rejected and left out."""
        ...


class Oracle:
    """Exact verdicts where the sample has a scene of the world; elsewhere it cannot judge."""

    name = ORACLE

    def protocol(self) -> dict[str, Any]:
        return {}

    def sign(self, annotation: Annotation) -> Annotation:
        return annotation

    def judge(
        self, draw: Draw, shard: Shard, contests: Sequence[Contest], writing: ShardWriter, progress: Progress
    ) -> dict[str, Judged]:
        return {contest.sample.key: self._judge(draw, contest) for contest in contests}

    def _judge(self, draw: Draw, contest: Contest) -> Judged:
        words = Vocabulary(**VOCABULARY)
        captions = contest.captions
        try:
            scene = contest.sample.meta.get("scene", {})
            counts = {name: count_facts(text, scene, words) for name, text in captions.items()}
        except DataError:
            return Judged(
                tuple(
                    make_verdict(captions, pair, ORACLE, "unjudged", reason="no-scene") for pair in draw.pairs
                )
            )
        return Judged(
            tuple(
                make_verdict(captions, pair, ORACLE, oracle_outcome(counts[pair[0]], counts[pair[1]]))
                for pair in draw.pairs
            )
        )


class ModelJudge:
    """A model that is asked through an engine; it is loaded when the first question has no answer yet."""

    def __init__(
        self, name: str, settings: JudgeModelSettings, recipe: Recipe, answers: Answers, stop: Stop
    ) -> None:
        self.name, self._settings, self._answers, self._stop = name, settings, answers, stop
        self._protocol = open_protocol(recipe)
        self._max_new_tokens = settings.max_new_tokens or recipe.judge.max_new_tokens
        if asks_for_json(recipe) and self._max_new_tokens < _MIN_JSON_TOKENS:
            raise RecipeError(
                f"{prompt_id(recipe)} asks for JSON, for which {self._max_new_tokens} tokens do not suffice; "
                "set judge.max_new_tokens=256"
            )
        self._key = api_key(settings.api)
        self._engine_name = choose_engine(settings.engine, settings.model).kind
        self.model, self.model_sha256 = identify(self._engine_name, settings.model, settings.api)
        if self._engine_name != "api":
            self.model = settings.model
        self._dtype = dtype_of(self._engine_name, settings.model, settings.dtype)
        self._prompt_id = prompt_id(recipe)
        self._prompt_sha256 = prompt_sha256(self._prompt_id, recipe.prompts)
        self._engine: Engine | None = None
        self.spent = ""  # what was said when the budget ended

    def protocol(self) -> dict[str, Any]:
        own = {} if self._settings.dtype == "auto" else self._dtype  # the weights decide their own
        return {
            "model_sha256": self.model_sha256,
            "engine": self._engine_name,
            "temperature": 0.0,
            "max_new_tokens": self._max_new_tokens,
            "prompt_id": self._prompt_id,
            "prompt_sha256": self._prompt_sha256,
            **({} if self._protocol.name == "pair" else {"protocol": self._protocol.name}),
            **own,
        }

    def sign(self, annotation: Annotation) -> Annotation:
        return replace(
            annotation,
            model=self.model,
            model_sha256=self.model_sha256,
            prompt_id=self._prompt_id,
            prompt_sha256=self._prompt_sha256,
            sampling={
                "engine": self._engine_name,
                "temperature": 0.0,
                **self._dtype,
                "max_new_tokens": self._max_new_tokens,
            },
        )

    def judge(
        self, draw: Draw, shard: Shard, contests: Sequence[Contest], writing: ShardWriter, progress: Progress
    ) -> dict[str, Judged]:
        replies: dict[str, dict[str, Reply]] = {}
        waiting: dict[str, list[tuple[str, str]]] = {}
        dollars = self._dollars
        for result in self._asked(self._requests(draw, shard, contests, replies, waiting, writing), progress):
            self._answers.keep(result.id, result)
            self._stop.check()
            for sample_key, question_id in waiting.pop(result.id):
                replies[sample_key][question_id] = reply_of(result)
            writing.count(tokens=result.num_tokens, requests=1)
        if self._dollars > dollars:
            writing.count(dollars=self._dollars - dollars)
        return {
            contest.sample.key: self._protocol.read(
                self.name, contest.captions, draw.pairs, self._whole(draw, contest, replies)
            )
            for contest in contests
            if contest.sample.key in replies
        }

    @property
    def _dollars(self) -> float:
        return 0.0 if self._engine is None else self._engine.dollars

    def _whole(
        self, draw: Draw, contest: Contest, replies: Mapping[str, Mapping[str, Reply]]
    ) -> dict[str, Reply]:
        """A reply to every question; what was not asked for want of budget says so."""
        found = replies[contest.sample.key]
        questions = self._protocol.questions(contest.captions, draw.pairs)
        return {one.id: found.get(one.id, Reply(problem=OVER_BUDGET)) for one in questions}

    def _requests(
        self,
        draw: Draw,
        shard: Shard,
        contests: Sequence[Contest],
        replies: dict[str, dict[str, Reply]],
        waiting: dict[str, list[tuple[str, str]]],
        writing: ShardWriter,
    ) -> Iterator[Request]:
        """The questions that have no answer yet, each under the digest of its answer.

        `replies` takes in the answers that are known, `waiting` who waits for each of the others.
        """
        for contest in contests:
            sample = contest.sample
            try:
                images = tuple(decode_image(image.data) for image in sample.images)
            except DataError as error:
                writing.reject(Reject(shard.name, sample.key, "image", str(error)))
                continue
            replies[sample.key] = {}
            for question in self._protocol.questions(contest.captions, draw.pairs):
                key = self._answer_key(question, sample)
                if (known := self._answers.find(key)) is not None:
                    replies[sample.key][question.id] = known
                    continue
                waiting.setdefault(key, []).append((sample.key, question.id))
                if len(waiting[key]) == 1:
                    yield Request(
                        id=key,
                        messages=(Turn("user", question.text),),
                        images=images,
                        max_new_tokens=self._max_new_tokens,
                        group=shard.name,
                        schema=question.schema,
                    )

    def _answer_key(self, question: Question, sample: Sample) -> str:
        how = {
            "model_sha256": self.model_sha256,
            "engine": self._engine_name,
            **self._dtype,
            "max_new_tokens": self._max_new_tokens,
            "schema": question.schema,
        }
        if self._engine_name == "api":
            how |= {
                "base_url": self._settings.api.base_url,
                "image_format": self._settings.api.image_format,
                "structured": self._settings.api.structured,
            }
        return answer_key(how, question.text, sample.image_sha256)

    def _asked(self, requests: Iterator[Request], progress: Progress) -> Iterator[Result]:
        """Ask as long as the budget lasts, and go through all of `requests` in any case."""
        first = None if self.spent else next(requests, None)
        if first is not None:
            try:
                # chain does not close `requests` when the engine lets go of it
                yield from self._open(progress).generate(chain([first], requests))
            except BudgetError as error:
                self.spent = str(error)
                progress.note(f"{self.name}: {error}")
        for _ in requests:
            pass

    def _open(self, progress: Progress) -> Engine:
        if self._engine is None:
            settings = EngineSettings(
                dtype=self._settings.dtype, api=self._settings.api, api_key=self._key, fails_alone=True
            )
            self._engine = open_engine(self._engine_name, self._settings.model, settings, self._stop)
            for note in self._engine.notes:
                progress.note(note)
        return self._engine
