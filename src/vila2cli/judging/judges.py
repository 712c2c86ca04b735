"""Who judges: the world's oracle, and models that are asked through an engine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from vila2cli.ask.kept_answers import Answers
from vila2cli.errors import DataError, RecipeError
from vila2cli.image import decode_image
from vila2cli.judging.asking import AskedModel, Inquiry, Reply
from vila2cli.judging.pairing import Draw
from vila2cli.judging.protocols import (
    Judged,
    asks_for_json,
    make_verdict,
    open_protocol,
    prompt_id,
)
from vila2cli.run.progress import Progress
from vila2cli.run.stopping import Stop
from vila2cli.score.caption import slot_balance
from vila2cli.score.scorer import Vocabulary
from vila2cli.score.verdict import oracle_outcome
from vila2cli.settings import JudgeModelSettings
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import Shard, ShardWriter
from vila2cli.shards.members import NO_IMAGE
from vila2cli.shards.sample import Annotation, Reject, Sample
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
        return {"rule": "slots-1"}

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
            counts = {name: slot_balance(text, scene, words) for name, text in captions.items()}
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
    """A model that says which captions are better, or what is wrong with them."""

    name: str

    def __init__(
        self, name: str, settings: JudgeModelSettings, recipe: Recipe, answers: Answers, stop: Stop
    ) -> None:
        self.name = name
        self._protocol = open_protocol(recipe)
        max_new_tokens = settings.max_new_tokens or recipe.judge.max_new_tokens
        if asks_for_json(recipe) and max_new_tokens < _MIN_JSON_TOKENS:
            raise RecipeError(
                f"{prompt_id(recipe)} asks for JSON, for which {max_new_tokens} tokens do not suffice; "
                "set judge.max_new_tokens=256"
            )
        self._asked = AskedModel(name, settings, max_new_tokens, answers, stop)
        self._decode = partial(decode_image, max_pixels=recipe.data.max_pixels)
        self._limits = recipe.data.limits()
        self._prompt_id = prompt_id(recipe)
        self._prompt_sha256 = prompt_sha256(self._prompt_id, recipe.prompts)

    @property
    def model(self) -> str:
        return self._asked.model

    @property
    def spent(self) -> str:
        """What was said when the budget ended."""
        return self._asked.spent

    def protocol(self) -> dict[str, Any]:
        return {
            **self._asked.protocol(),
            **self._limits,
            "prompt_id": self._prompt_id,
            "prompt_sha256": self._prompt_sha256,
            **({} if self._protocol.name == "pair" else {"protocol": self._protocol.name}),
        }

    def sign(self, annotation: Annotation) -> Annotation:
        return replace(
            annotation,
            model=self._asked.model,
            model_sha256=self._asked.model_sha256,
            prompt_id=self._prompt_id,
            prompt_sha256=self._prompt_sha256,
            sampling=self._asked.sampling(),
        )

    def judge(
        self, draw: Draw, shard: Shard, contests: Sequence[Contest], writing: ShardWriter, progress: Progress
    ) -> dict[str, Judged]:
        replies: dict[str, dict[str, Reply]] = {}
        questions = self._questions(draw, shard, contests, replies, writing)
        for (key, question_id), reply in self._asked.ask(questions, writing.count, progress):
            replies[key][question_id] = reply
        return {
            contest.sample.key: self._protocol.read(
                self.name, contest.captions, draw.pairs, replies[contest.sample.key]
            )
            for contest in contests
            if contest.sample.key in replies
        }

    def _questions(
        self,
        draw: Draw,
        shard: Shard,
        contests: Sequence[Contest],
        replies: dict[str, dict[str, Reply]],
        writing: ShardWriter,
    ) -> Iterator[Inquiry[tuple[str, str]]]:
        """All that is asked about the samples whose pictures can be read; these get an entry in `replies`."""
        for contest in contests:
            sample = contest.sample
            if not sample.images:
                writing.reject(Reject(shard.name, sample.key, NO_IMAGE, "the sample has no image to judge by"))
                continue
            try:
                images = tuple(self._decode(image.data) for image in sample.images)
            except DataError as error:
                writing.reject(Reject(shard.name, sample.key, "bad-image", str(error)))
                continue
            replies[sample.key] = {}
            seen = " ".join([sample.image_sha256, *map(str, self._limits.values())])
            for question in self._protocol.questions(contest.captions, draw.pairs):
                yield Inquiry((sample.key, question.id), question, shard.name, images, seen)
