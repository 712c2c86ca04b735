"""A run folder as the stages leave it: real layers over real pictures, invented answers."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

from vila2cli.run.folder import claim, write_json
from vila2cli.score import find_scorer
from vila2cli.score.caption import score as score_caption
from vila2cli.score.scorer import Reference, Vocabulary
from vila2cli.score.stats import cautious_share, columns_of, estimate, mean_of
from vila2cli.settings.recipe import Recipe, load_recipe
from vila2cli.shards import TarWriter, open_layer, open_source
from vila2cli.shards.sample import Annotation, Reject
from vila2cli.world.draw import draw_picture, encode_jpeg
from vila2cli.world.sayings import QUESTIONS, alt_text, statements, wrong_object
from vila2cli.world.scenes import VOCABULARY, Scene, draw_scene

WORDS = Vocabulary(**VOCABULARY)
FILLERS = (
    "The background is light and plain.",
    "Everything is drawn in flat colours.",
    "Nothing else can be seen.",
)
TASKS = {"existence": "yesno", "colour": "short", "count": "short", "spatial": "short", "ocr": "ocr"}


@dataclass
class SyntheticRun:
    """Writes the folders of a run one by one; `skill` is the share of statements a round's model gets right."""

    folder: Path
    num_samples: int = 24
    num_shards: int = 2
    num_questions: int = 40
    skills: Sequence[float] = (0.45, 0.68, 0.74, 0.745)
    scenes: dict[str, Scene] = field(default_factory=dict)

    @property
    def run_dir(self) -> Path:
        return self.folder / "runs" / "world"

    @property
    def base_dir(self) -> Path:
        return self.folder / "data" / "pretrain"

    def recipe(self, *sets: str) -> Recipe:
        return load_recipe(None, [f'data.pretrain=["{self.base_dir}"]', "name=world", *sets])

    def write_base(self) -> None:
        samples = iter(captioned_scenes(self.num_shards * self.num_samples))
        for shard in range(self.num_shards):
            with TarWriter(self.base_dir / f"{shard:06d}.tar") as tar:
                for i in range(self.num_samples):
                    key = f"{shard:06d}{i:04d}"
                    self.scenes[key], members = next(samples)
                    tar.write_sample(key, members)

    def write_recaption(self, number: int, *, text: str | None = None, num_shards: int | None = None) -> None:
        """A round's captions; `text` replaces those of every third image."""
        random = Random(100 + number)
        out = self.run_dir / f"round{number}" / "recaption"
        source = open_source([str(self.base_dir)])
        manifest = claim(out, {"stage": "recaption", "round": number, "model_sha256": f"{number}a" * 32})
        layer = open_layer(out, layer="recaption", source=source, manifest={"digest": manifest.digest})
        for shard in source.shards[:num_shards]:
            with layer.shard(shard) as writer:
                for i, sample in enumerate(writer.samples()):
                    if i == 5:
                        writer.reject(
                            Reject(shard.name, sample.key, "refusal", "the model wrote: I cannot see")
                        )
                        continue
                    caption = describe(self.scenes[sample.key], self.skills[number - 1], number, random)
                    written = text if text is not None and i % 3 == 0 else caption
                    writer.annotate(sample, caption_annotation(written, number, random))
                    writer.count(tokens=len(written.split()) + 9)
        layer.finish()
        seconds = 6.1 + number / 10
        num_images = self.num_samples * self.num_shards
        cost = {"seconds": seconds, "num_devices": 1, "device": "core-hours"}
        write_json(out / "summary.json", {"stage": "recaption", "images": num_images, "cost": cost})

    def write_training(self, group: str, stage: str) -> None:
        """A checkpoint folder with what the report reads of it."""
        out = self.run_dir / group / stage
        phases = [{"phase": "main", "num_samples": 4000, "num_tokens": 310_000, "seconds": 60.5}]
        shards = {f"{i:06d}": "c" * 64 for i in range(self.num_shards)}
        if group != "round0":
            shards |= {f"{name}+recaption": "d" * 64 for name in shards}
        source = {"path": f"runs/world/{group}/pretrain", "sha256": "b7" * 32}
        start: dict[str, Any] = {"parent": source}
        if stage == "pretrain":
            start = {
                "bases": {
                    "vision_tower": source | {"path": "world:tower"},
                    "llm": source | {"path": "world:llm"},
                }
            }
        write_json(
            out / "vila2.json",
            {
                "stage": stage,
                "vila2": "0.1",
                "seconds": 74.2,
                "phases": phases,
                "data": {"pretrain": shards},
                **start,
            },
        )
        write_json(out / "config.json", {})

    def write_eval(self, group: str, skill: float, *, asked: str | None = None) -> None:
        """Prediction layers and metrics.json, scored by the real scorers; `asked` is each question's digest."""
        out = self.run_dir / group / "eval"
        entries: dict[str, Any] = {}
        headlines = []
        for name in [*TASKS, "caption"]:
            scorer = find_scorer(TASKS.get(name, "facts"))
            rows, images = self._write_predictions(out / f"world-{name}", name, group, skill, asked)
            found = estimate(columns_of(rows), scorer.metrics, num_bootstrap=200, seed=0, groups=images)
            entries[f"world-{name}"] = {
                "metrics": {metric: one.interval().to_json() for metric, one in found.items()},
                "headline": scorer.headline,
                "num_samples": len(rows),
                "version": "1",
                "scorer": scorer.name,
                "scorer_version": scorer.version,
            }
            if name in TASKS:
                headlines.append(found[scorer.headline])
        write_json(
            out / "metrics.json",
            {
                "model": f"runs/world/{group}/sft",
                "model_sha256": "e5" * 32,
                "tasks": entries,
                "qa_mean": mean_of(headlines).interval().to_json(),
                "seconds": 21.7,
            },
        )

    def _write_predictions(
        self, out: Path, name: str, group: str, skill: float, asked: str | None
    ) -> tuple[list[dict[str, float]], list[str]]:
        luck = Random(f"{name} {group}")
        base = self.folder / "data" / "eval" / name
        scenes, pictures = evaluated_scenes(name, self.num_questions)
        if not base.exists():
            with TarWriter(base / "000000.tar") as tar:
                for i, members in enumerate(pictures):
                    tar.write_sample(f"{i:06d}", members)
        source = open_source([str(base)])
        rows, images = [], []
        shutil.rmtree(out, ignore_errors=True)
        writer = open_layer(out, layer="eval", source=source, manifest={"task": name})
        with writer.shard(source.shards[0]) as shard:
            for sample, scene in zip(shard.samples(), scenes, strict=True):
                text, scores = predict(name, scene, skill, luck)
                rows.append(scores)
                images.append(sample.image_sha256)
                answer = Annotation(layer="eval", kind="prediction", text=text, scores=scores)
                shard.annotate(sample, replace(answer, prompt_sha256=asked))
        return rows, images

    def write_judge(self, number: int, wins: dict[str, int]) -> None:
        """A judge summary as vila2 judge writes it, of the round's captions over the alt-text."""
        judges = {
            judge: {"wins": won, "ties": 4, "losses": 196 - won, "unjudged": 0, "position_bias": 0.52}
            | {
                "num_pairs": 200,
                "win_rate": cautious_share((won + 2) / 200, 200).to_json(),
                "length_bias": None,
            }
            for judge, won in wins.items()
        }
        layer = f"runs/world/round{number}/recaption"
        agreement = [{"judges": list(wins), "kappa": 0.44, "num_samples": 200}]
        pair = {"layer": layer, "against": "alt-text", "judges": judges, "agreement": agreement}
        write_json(
            self.run_dir / f"round{number}" / "judge" / "summary.json", {"judges": judges, "pairs": [pair]}
        )

    def write_round(self, number: int) -> None:
        group = f"round{number}"
        if number:
            self.write_recaption(number)
        self.write_training(group, "pretrain")
        self.write_training(group, "sft")
        self.write_eval(group, self.skills[number])
        if number:
            self.write_judge(number, {"oracle": 168 + 2 * number, "model": 139 + 4 * number})


@cache  # as drawing takes most of the time of a run, and every run has the same
def captioned_scenes(num: int) -> list[tuple[Scene, dict[str, bytes]]]:
    """Scenes with the members of their samples, alt-text included."""
    random, found = Random(1), []
    for _ in range(num):
        scene = draw_scene(random, "pretrain")
        text = alt_text(scene, random, wrong=0.15, boilerplate=0.15)
        found.append((scene, picture(scene, random, {"txt": text.encode()})))
    return found


@cache
def evaluated_scenes(name: str, num: int) -> tuple[list[Scene], list[dict[str, bytes]]]:
    """The scenes of a task, and the members of their samples."""
    random = Random(name)
    scenes = [draw_scene(random, "eval") for _ in range(num)]
    return scenes, [picture(scene, random, {}) for scene in scenes]


def picture(scene: Scene, random: Random, members: dict[str, bytes]) -> dict[str, bytes]:
    meta = {"scene": scene.to_json(), "box_frame": "xyxy-999"}
    return {"jpg": encode_jpeg(draw_picture(scene, random)), "json": json.dumps(meta).encode(), **members}


def describe(scene: Scene, skill: float, number: int, random: Random) -> str:
    """The caption of a model that gets `skill` of the statements right, longer in later rounds."""
    things = [thing if random.random() < skill else wrong_object(thing, random) for thing in scene.objects]
    writing = scene.writing
    if writing and random.random() > skill:
        writing = replace(writing, word="".join(random.sample(writing.word, 2)) + "X")
    said = statements(Scene(tuple(things), writing))
    said += random.sample(FILLERS, random.choice((0, 1, min(number, 2))))
    return f"The image shows {len(things)} objects. " + " ".join(said)


def caption_annotation(text: str, number: int, random: Random) -> Annotation:
    prompt = random.choice(("long-v1", "long-v2", "long-v3"))
    return Annotation(
        layer="recaption",
        kind="caption",
        text=text,
        round=number,
        prompt_id=prompt,
        num_tokens=40,
        finish_reason="length" if len(text) > 10_000 else "stop",
    )


def predict(name: str, scene: Scene, skill: float, random: Random) -> tuple[str, dict[str, float]]:
    if name == "caption":
        text = describe(scene, skill, 1, random)
        return text, score_caption(text, Reference(scene=scene.to_json(), vocabulary=WORDS))
    _, answer = QUESTIONS[name](scene, random)
    text = answer if random.random() < 0.5 + skill / 2 else "nothing at all"
    return text, find_scorer(TASKS[name]).score(text, Reference(answers=(answer,), scene=scene.to_json()))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., SyntheticRun]:
    """Make a run with rounds 0..`rounds`, -1 for none, and with the base shards that its layers lie over."""

    def make(rounds: int = 3, **settings: Any) -> SyntheticRun:
        run = SyntheticRun(tmp_path, **settings)
        run.write_base()
        run.run_dir.mkdir(parents=True)
        for number in range(rounds + 1):
            run.write_round(number)
        return run

    return make
