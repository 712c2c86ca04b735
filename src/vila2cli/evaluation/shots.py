"""Few-shot questions: solved samples of another split before the one that is asked (VILA has 0 and 4)."""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random

from vila2cli.errors import DataError, RecipeError
from vila2cli.image import decode_image
from vila2cli.score.task import TASK_FILE, Task, load_task
from vila2cli.shards import open_source, read_shard
from vila2cli.shards.sample import IMAGE_PLACEHOLDER, Sample, Turn
from vila2cli.text.compose import neutral

POOL_SIZE = 256
"""Samples that shots are drawn from at most: those whose key's hash is smallest."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A solved sample."""

    sample: Sample
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Shots:
    """What shots of a task are drawn from, and how many go before each question."""

    pool: tuple[Shot, ...]
    num: int
    seed: int
    task: str
    folder: Path

    def draw(self, sample: Sample) -> list[Shot]:
        """The shots of a sample: decided by seed, task and key, never with its own picture or question."""
        fit = [shot for shot in self.pool if not _is_same(shot.sample, sample)]
        if len(fit) < self.num:
            raise DataError(f"{self.folder} has {len(fit)} samples to draw {self.num} shots from")
        name = f"{self.seed}\x1f{self.task}\x1f{sample.key}"
        return Random(int.from_bytes(sha256(name.encode()).digest()[:8])).sample(fit, self.num)


def open_shots(task: Task, shots_dir: str, num: int, seed: int) -> Shots:
    """Read what shots are drawn from: SHOTS_DIR/NAME, called as the task's folder, or SHOTS_DIR itself.

    Raises RecipeError when that is not there, or is the scored split itself.
    """
    root = Path(shots_dir)
    folder = next((one for one in (root / task.folder.name, root) if any(one.glob("*.tar"))), None)
    if not shots_dir or folder is None:
        raise RecipeError(
            f"eval.num_shots is {num}, but eval.shots_dir has no shards for {task.name}; name the folder of a "
            "train or dev split"
        )
    source = load_task(folder) if (folder / TASK_FILE).is_file() else None
    if folder.resolve() == task.folder.resolve() or (source and source.split and source.split == task.split):
        raise RecipeError(f"shots of task {task.name} are from the split that is scored; change eval.shots_dir")
    asks = source or task
    solved = (
        sample
        for shard in open_source([folder]).shards
        for sample in read_shard(shard, on_reject=lambda reject: None)
        if _is_solved(sample, asks)
    )
    pool = heapq.nsmallest(POOL_SIZE, solved, lambda one: sha256(f"{seed}\x1f{one.key}".encode()).digest())
    found = tuple(Shot(sample, asks.question_of(sample), best_answer(sample)) for sample in pool)
    return Shots(found, num, seed, task.name, folder)


def with_shots(question: str, sample: Sample, shots: Sequence[Shot]) -> tuple[tuple[Turn, ...], list[bytes]]:
    """The turns, each question after its own pictures, and all pictures in order."""
    turns: list[Turn] = []
    pictures: list[bytes] = []
    for shot in shots:
        asked = _after_pictures(shot.question, shot.sample)
        turns += [Turn("user", asked), Turn("assistant", neutral(shot.answer))]
        pictures += [image.data for image in shot.sample.images]
    turns.append(Turn("user", _after_pictures(question, sample)))
    return tuple(turns), pictures + [image.data for image in sample.images]


def best_answer(sample: Sample) -> str:
    """The reference answer that most people gave, the first of equals."""
    answers = [str(answer) for answer in sample.meta.get("answers", ())]
    return Counter(answers).most_common(1)[0][0]


def _after_pictures(question: str, sample: Sample) -> str:
    missing = len(sample.images) - question.count(IMAGE_PLACEHOLDER)
    return f"{IMAGE_PLACEHOLDER * max(0, missing)}{question}"


def _is_solved(sample: Sample, task: Task) -> bool:
    """Whether a sample has an answer, a question, and pictures that can be read."""
    if not sample.meta.get("answers"):
        return False
    try:
        task.question_of(sample)
        for image in sample.images:
            decode_image(image.data)
    except DataError:
        return False
    return True


def _is_same(shot: Sample, sample: Sample) -> bool:
    same_picture = bool(shot.image_sha256) and shot.image_sha256 == sample.image_sha256
    same_id = "sample_id" in shot.meta and shot.meta["sample_id"] == sample.meta.get("sample_id")
    return same_picture or same_id
