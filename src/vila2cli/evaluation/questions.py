"""What is asked of a model about a sample: the question with its shots, and the truth that answers it."""

from collections.abc import Iterator
from dataclasses import dataclass

from vila2cli.errors import DataError
from vila2cli.evaluation.shots import Shot, Shots, with_shots
from vila2cli.score.scorer import Reference
from vila2cli.score.task import Task
from vila2cli.shards import Shard, ShardWriter
from vila2cli.shards.sample import Reject, Sample, Turn


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


def questions_of(
    task: Task, shard: Shard, writing: ShardWriter, shots: Shots | None
) -> Iterator[tuple[str, Question]]:
    """The samples of a shard that can be asked and scored; the others are rejected."""
    for sample in writing.samples():
        try:
            question = Question(
                sample,
                task.question_of(sample),
                task.reference_of(sample),
                () if shots is None else tuple(shots.draw(sample)),
            )
            task.scorer.stored("", question.reference)
            _check_images(sample)
        except DataError as error:
            writing.reject(Reject(shard.name, sample.key, "task", str(error)))
        else:
            yield sample.key, question


def _check_images(sample: Sample) -> None:
    """Raise DataError where a sample lacks pictures that its benchmark asks about."""
    wanted = sample.meta.get("num_images")
    if isinstance(wanted, int) and len(sample.images) < wanted:
        raise DataError(
            f"it asks about {wanted} images and holds {len(sample.images)}: it was imported without --images, "
            "so answers of other tools can be scored, but none asked for"
        )
