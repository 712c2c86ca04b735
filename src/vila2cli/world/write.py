"""The world's shards: everything a run reads, written from a seed."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from vila2cli.errors import DataError, RecipeError
from vila2cli.ranks import num_cores
from vila2cli.run.child import end_with, is_program
from vila2cli.run.folder import claim, read_manifest, write_json, write_text
from vila2cli.run.progress import Progress
from vila2cli.run.results import StageResult, summary_lines
from vila2cli.run.stopping import Stop, interruptible
from vila2cli.settings import WorldSettings
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import TarWriter
from vila2cli.shards.records import check_whole
from vila2cli.shards.sample import Turn
from vila2cli.text.prompts import PROMPTS
from vila2cli.world import sayings
from vila2cli.world.base_data import reading_turns
from vila2cli.world.draw import draw_picture, encode_jpeg
from vila2cli.world.scenes import BOX_FRAME, VOCABULARY, Scene, Size, draw_scene

Members = dict[str, bytes]
Folders = Mapping[str, tuple[int, Callable[[Random], Members]]]
"""Of each folder how many samples it has, and what makes one."""
Made = Callable[[Callable[[str], Members], Iterable[str]], Iterable[Members]]
"""As `map`: the samples made of each seed, in order."""

_PAYS = 2_000
"""Samples from which on processes of their own, which take half a second to start, make them sooner."""
_CHUNK = 16
"""Samples that such a process is given at a time."""

TASKS: Mapping[str, tuple[str, str]] = {
    "existence": ("yesno", "yesno"),
    **dict.fromkeys(("colour", "shape", "size", "count", "place", "spatial"), ("short", "short")),
    "ocr": ("short", "ocr"),
    "grounding": ("box", "box"),
    "caption": ("caption", "facts"),
}
"""Evaluation tasks: answer type and scorer of each."""
SPECIALISTS = ("spatial", "grounding", "ocr")
SFT_SKILLS = ("existence", "colour", "shape", "size", "count", "place", "spatial", "ocr", "grounding")
SFT_QUESTIONS = 7
"""Questions in a conversation that describes the picture."""


@dataclass(frozen=True, slots=True)
class WorldWritten(StageResult):
    """How many samples there are in each folder."""

    stage: str
    num_samples: Mapping[str, int]

    def lines(self) -> list[str]:
        return summary_lines(self.num_samples)


def write_world(recipe: Recipe, out: Path) -> WorldWritten:
    """Write the shards of every stage under `out`.

    The same seed and sizes give the same bytes. No scene is in two of the splits named in
    `scenes.BUCKETS`. The marker `out/world.json` is written last. Raises RecipeError when the folder
    holds a world of other settings.
    """
    world = recipe.world
    inputs = {"stage": "world", "settings": world.deciding()}
    return write_folders(dict(_folders(world)), out, world, inputs, ("world", TASKS))


def write_folders(
    plan: Folders, out: Path, world: WorldSettings, inputs: dict[str, Any], named: tuple[str, Iterable[str]]
) -> WorldWritten:
    """Write the shards of a plan under `out`, what makes tasks of some of them, and the marker.

    `named` is what the names of tasks begin with, and the tasks. Raises RecipeError when the folder holds what
    was made of other `inputs`.
    """
    if read_manifest(out) is None:
        _check_free(out, plan)
    total = sum(num for num, _ in plan.values())
    with interruptible() as stop, Progress("world", total=total, unit="samples") as progress:
        claim(out, inputs)
        with _on_all_cores(total) as made:
            for name, (num, make) in plan.items():
                for shard, start in enumerate(range(0, num, world.samples_per_shard)):
                    indices = range(start, min(num, start + world.samples_per_shard))
                    _write_shard(out / name / f"{shard:06d}.tar", indices, make, world.seed, stop, made)
                    progress.advance(len(indices))
    for split in ("dev", "eval"):
        for task in named[1]:
            write_text(out / split / task / "task.toml", task_toml(task, split, named[0]))
    counts = {name: num for name, (num, _) in plan.items() if num}
    write_json(out / "world.json", {"settings": inputs["settings"], "num_samples": counts})
    return WorldWritten(str(inputs["stage"]), counts)


def _check_free(out: Path, plan: Mapping[str, object]) -> None:
    """Raise RecipeError where a folder of the world has shards or a task of something else."""
    for folder in [out / name for name in plan]:
        if found := next((path for path in (*folder.glob("*.tar"), *folder.glob("task.toml"))), None):
            raise RecipeError(f"{found} is no part of this world and would be overwritten; give another --out")


def _folders(world: WorldSettings) -> Iterator[tuple[str, tuple[int, Callable[[Random], Members]]]]:
    yield "pretrain", (world.num_pretrain, partial(pretrain_sample, noise=world.alt_text_noise))
    yield "interleaved", (world.num_interleaved, partial(document, noise=world.alt_text_noise))
    yield "sft", (world.num_sft, instruction_sample)
    yield "text", (world.num_text, text_sample)
    for name in SPECIALISTS:
        yield f"specialist-{name}", (world.num_specialist, partial(specialist_sample, name=name))
    for split, num in (("dev", world.num_dev), ("eval", world.num_eval)):
        for task in TASKS:
            yield f"{split}/{task}", (num, partial(task_sample, task=task, split=split))


@contextmanager
def _on_all_cores(num: int) -> Iterator[Made]:
    """What makes samples in processes of their own, where there are cores for them and samples enough."""
    num_processes = num_cores()
    if num < _PAYS or num_processes < 2 or not is_program():  # a script may not be one that can be imported
        yield map
        return
    spawn = multiprocessing.get_context("spawn")  # nothing of what this process has begun comes with them
    with ProcessPoolExecutor(num_processes, spawn, _begin_drawing, (os.getpid(),)) as pool:
        try:
            yield partial(_mapped, pool)
        except BrokenProcessPool:  # a signal to all of them may end these first
            raise DataError("a process that draws was ended from outside; run the same command again") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _mapped(pool: ProcessPoolExecutor, function: Callable[..., Any], values: Iterable[Any]) -> Iterator[Any]:
    """`map` in the processes of a pool; those that it starts are not open to Ctrl-C while they load, either."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which they inherit
    try:
        return pool.map(function, values, chunksize=_CHUNK)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_drawing(parent: int) -> None:
    """End with the parent, which alone heeds Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)


def _write_shard(
    path: Path, indices: range, make: Callable[[Random], Members], seed: int, stop: Stop, made: Made
) -> None:
    """Write the samples of a shard; one that is there already is kept."""
    if path.exists() and path.with_suffix(".stats.json").exists():
        check_whole(path)
        return
    seeds = [f"{seed}/{_stream(path.parent)}/{index}" for index in indices]
    with TarWriter(path) as tar:
        for index, members in zip(indices, made(partial(_seeded, make), seeds), strict=True):
            stop.check()
            tar.write_sample(f"{index:09d}", members)


def _seeded(make: Callable[[Random], Members], seed: str) -> Members:
    return make(Random(seed))


def _stream(folder: Path) -> str:
    """What a folder's random numbers depend on; all tasks of a split ask about the same scenes."""
    return folder.parent.name if folder.parent.name in ("dev", "eval") else folder.name


def picture_members(
    scene: Scene, random: Random, meta: dict[str, Any], text: str | None = None, size: Size | None = None
) -> Members:
    """One picture, of `size` or the scene's own, with its metadata (ground truth included) and alt-text."""
    meta = {**meta, "scene": scene.to_json(), "box_frame": BOX_FRAME}
    members = {"jpg": encode_jpeg(draw_picture(scene, random, size)), "json": _json(meta)}
    return members if text is None else {**members, "txt": text.encode()}


def pretrain_sample(random: Random, noise: float) -> Members:
    """A picture with web-like alt-text."""
    scene = draw_scene(random, "pretrain")
    text = sayings.alt_text(scene, random, wrong=noise, boilerplate=noise)
    return picture_members(scene, random, {"url": f"world:{scene.signature}"}, text)


def document(random: Random, noise: float) -> Members:
    """A web document: two or three pictures, each after the sentence that speaks of it."""
    scenes = [draw_scene(random, "interleaved") for _ in range(random.choice((2, 3)))]
    texts: list[str | None] = []
    for scene in scenes:
        text = sayings.alt_text(scene, random, wrong=noise, boilerplate=0.0)
        texts += [f"{random.choice(('Here is', 'Then came', 'Next to it', 'We also saw'))} {text}.", None]
    texts.append(random.choice(sayings.BOILERPLATE))
    images = [None if text is not None else sum(t is None for t in texts[:i]) for i, text in enumerate(texts)]
    members = {f"{i}.jpg": encode_jpeg(draw_picture(scene, random)) for i, scene in enumerate(scenes)}
    meta = {"interleaved": {"texts": texts, "images": images}, "scenes": [scene.to_json() for scene in scenes]}
    return {**members, "json": _json(meta)}


def instruction_sample(random: Random) -> Members:
    """A picture with a multi-turn conversation: description and questions, or questions and a comparison."""
    scene = draw_scene(random, "sft")
    skills = random.sample(SFT_SKILLS, SFT_QUESTIONS)
    if random.random() < 0.4:
        turns = sayings.interview(scene, random, skills[:2]) + sayings.comparison(scene, random, thin=0.4)
    else:
        turns = sayings.describe(scene, random) + sayings.interview(scene, random, skills)
    return picture_members(scene, random, messages(turns))


def text_sample(random: Random) -> Members:
    """A text-only conversation."""
    return {"json": _json(messages(reading_turns(random)))}


def specialist_sample(random: Random, name: str) -> Members:
    """A picture with a conversation of a specialist's skill."""
    scene = draw_scene(random, "specialist", with_word=random.random() < 0.85 if name == "ocr" else None)
    prompts = [prompt for prompt in PROMPTS if prompt.startswith(f"{name}-v")]
    return picture_members(scene, random, messages(sayings.specialist_turns(scene, name, prompts, random)))


def task_sample(random: Random, task: str, split: str) -> Members:
    """A picture with a question of an evaluation task and its answer."""
    scene = draw_scene(random, split)
    image_random, ask = Random(random.getrandbits(64)), Random(f"{task} {random.random()}")
    if task == "caption":
        question, answer = PROMPTS["long-v1"], sayings.caption(scene)
    else:
        question, answer = sayings.QUESTIONS[task](scene, ask)
    return picture_members(scene, image_random, {"question": question, "answers": [answer], "skill": task})


def task_toml(task: str, split: str, name: str) -> str:
    """The description that makes a folder of shards an evaluation task."""
    answer_type, scorer = TASKS[task]
    lines = [
        f'name = "{name}-{task}"',
        "version = 1",
        f'answer_type = "{answer_type}"',
        f'scorer = "{scorer}"',
        f'split = "{split}"',
    ]
    if scorer == "facts":
        lines += ["", "[vocabulary]", *(f"{slot} = {json.dumps(words)}" for slot, words in VOCABULARY.items())]
    return "\n".join(lines) + "\n"


def messages(turns: list[Turn]) -> dict[str, Any]:
    return {"messages": [turn.to_json() for turn in turns]}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
