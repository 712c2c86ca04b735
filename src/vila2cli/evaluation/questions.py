"""Asking a model the questions of a task: each with its shots and images, and its answer as a prediction."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from PIL import Image

from vila2cli.ask.fill import Dialogue
from vila2cli.engine import Result
from vila2cli.errors import DataError
from vila2cli.evaluation.measure import reasoning_of
from vila2cli.evaluation.repair import REFUSED, EarlierAnswers
from vila2cli.evaluation.shots import Shot, open_shots, with_shots
from vila2cli.evaluation.subject import LAYER, Subject
from vila2cli.image import Decode
from vila2cli.score.scorer import Reference
from vila2cli.score.task import Task
from vila2cli.shards import ShardWriter
from vila2cli.shards.rejects import NO_ANSWER
from vila2cli.shards.sample import Annotation, Reject, Sample, Turn


@dataclass(frozen=True, slots=True)
class Question:
    """A sample with what is asked about it and what is true."""

    sample: Sample
    text: str
    reference: Reference
    shots: tuple[Shot, ...] = ()

    def messages(self) -> tuple[tuple[Turn, ...], list[bytes]]:
        """The turns sent, and the pictures in them."""
        if self.shots:
            return with_shots(self.text, self.sample, self.shots)
        return (Turn("user", self.text),), [image.data for image in self.sample.images]

    def image_sha256s(self) -> list[str]:
        """The digests of the samples whose pictures are sent."""
        return [sample.image_sha256 for sample in (*(shot.sample for shot in self.shots), self.sample)]


class Questions:
    """The task of asking a model about the samples of an evaluation task.

    `earlier` is what is known of shards by name that lacked answers.
    """

    def __init__(self, subject: Subject, task: Task, earlier: Mapping[str, EarlierAnswers]) -> None:
        settings, self._data = subject.recipe.eval, subject.recipe.data
        self._subject, self._task, self._earlier = subject, task, earlier
        self._shots = None
        if settings.num_shots:
            self._shots = open_shots(task, settings.shots_dir, settings.num_shots, subject.recipe.seed)

    def wants(self, out: ShardWriter, sample: Sample) -> bool:
        """Whether to ask about a sample: it can be scored, and nothing is known of it yet."""
        try:
            self._task.scorer.stored("", self._question(sample).reference)
            _check_images(sample)
        except DataError as error:
            out.reject(Reject(out.name, sample.key, "task", str(error)))
            return False
        earlier = self._earlier.get(out.name, EarlierAnswers())
        if (prediction := earlier.predictions.get(sample.key)) is not None:
            out.annotate(sample, prediction)
        elif (reject := earlier.refused.get(sample.key)) is not None:
            out.reject(reject)
        else:
            return True
        return False

    def prepare(self, sample: Sample, decode: Decode) -> tuple[Image.Image, ...]:
        """The pictures of the shots and of the sample."""
        _, pictures = self._question(sample).messages()
        data = self._data
        return tuple(decode(one, max_pixels=data.max_pixels, draft=data.draft) for one in pictures)

    def talk(self, out: ShardWriter, sample: Sample, images: tuple[Image.Image, ...]) -> Dialogue:
        """Ask the question and write the answer with its scores, or a reject where there is none."""
        question = self._question(sample)
        turns, _ = question.messages()
        (result,) = yield [self._subject.asked.request(turns, images, question.image_sha256s())]
        if result.error is not None:
            reason = NO_ANSWER if result.failure == "unanswered" else REFUSED
            out.reject(Reject(out.name, sample.key, reason, result.error))
        else:
            out.annotate(sample, self._annotation(question, result))

    def _question(self, sample: Sample) -> Question:
        """What to ask about a sample; raises DataError where it does not fit the task."""
        return Question(
            sample,
            self._task.question_of(sample),
            self._task.reference_of(sample),
            () if self._shots is None else tuple(self._shots.draw(sample)),
        )

    def _annotation(self, question: Question, result: Result) -> Annotation:
        subject, text = self._subject, result.answer.text
        shots = [shot.sample.key for shot in question.shots]
        return Annotation(
            layer=LAYER,
            kind="prediction",
            text=text,
            scores=self._task.scorer.stored(text, question.reference),
            round=subject.round,
            model=subject.model,
            model_sha256=subject.asked.model_sha256,
            prompt_sha256=sha256(question.text.encode()).hexdigest(),
            decision={**({"shots": shots} if shots else {}), **reasoning_of(result.answer)},
            sampling=subject.asked.sampling(),
            num_tokens=result.num_tokens,
            finish_reason=result.finish_reason,
            logprob_mean=result.logprob_mean,
        )


def _check_images(sample: Sample) -> None:
    """Raise DataError where a sample lacks pictures that its benchmark asks about."""
    wanted = sample.meta.get("num_images")
    if isinstance(wanted, int) and len(sample.images) < wanted:
        raise DataError(
            f"it asks about {wanted} images and holds {len(sample.images)}: it was imported without --images, "
            "so answers of other tools can be scored, but none asked for"
        )
