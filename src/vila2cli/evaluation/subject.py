"""The model under evaluation: what decides its answers, the layers that hold them, and how it is asked."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from vila2cli import __version__
from vila2cli.ask.kept_answers import Answers
from vila2cli.ask.model import AskedModel
from vila2cli.ask.pool import replicas_of
from vila2cli.ask.replicas import Replicas
from vila2cli.engine import Engine, EngineSettings
from vila2cli.files import read_json
from vila2cli.model.checkpoint import resolve_model
from vila2cli.run.folder import claim
from vila2cli.run.stopping import Stop
from vila2cli.run.workers import Worker
from vila2cli.score.stats import CONFIDENCE, FEW_IMAGES
from vila2cli.score.task import Task
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import LayerWriter, Source, open_layer

LAYER = "eval"


class Subject:
    """A model, asked with the settings of [eval]; raises ModelError where it is not there."""

    def __init__(self, recipe: Recipe, model: str | Path, round: int | None) -> None:
        settings = recipe.eval
        engine = EngineSettings(
            dtype=settings.dtype,
            batch_size=settings.batch_size,
            api=recipe.api,
            asked=settings.asked(),
            machine=recipe.engine_of("eval"),
        )
        self.recipe, self.model, self.round = recipe, str(model), round
        self.asked = AskedModel.of(self.model, settings.engine, engine, max_new_tokens=settings.max_new_tokens)

    def inputs(self) -> dict[str, Any]:
        """What decides the answers, the tasks apart."""
        return {
            "stage": "eval",
            "round": self.round,
            **self.asked.inputs(),
            **self._few_shot(),
            **self.recipe.data.limits(),
        }

    def task_inputs(self, task: Task) -> dict[str, Any]:
        """What decides the answers to a task, its shards apart."""
        described = {
            "version": task.version,
            "question": task.question,
            "scorer": task.scorer.name,
            "scorer_version": task.scorer.version,
            "vocabulary": task.vocabulary,
            **({"prompt": task.prompt} if task.prompt != "{question}" else {}),
            **({"synonyms": dict(task.synonyms)} if task.synonyms else {}),
        }
        return {**self.inputs(), "task": described}

    def open_layer(self, task: Task, source: Source, folder: Path) -> LayerWriter:
        """The layer of its answers to a task."""
        inputs = {**self.task_inputs(task), "shards": source.outline()}
        manifest = claim(folder, inputs, model=self.asked.name)
        return open_layer(
            folder,
            layer=LAYER,
            source=source,
            manifest={"digest": manifest.digest},
            is_packed=self.recipe.data.compress_layers,
        )

    def replicas(self, worker: Worker, stop: Stop, num_shards: int) -> Replicas | None:
        """Replicas that ask it, None where one engine does."""
        return replicas_of(self.asked, worker, stop, num_shards)

    def open_engine(self, answers: Answers, stop: Stop) -> Engine:
        """The engine that asks it; what a server is paid for is kept."""
        engine = self.asked.open(stop)
        if engine.name != "api":
            return engine
        return self.asked.keeping(engine, answers, self.recipe.data.limits())

    def protocol(self) -> dict[str, Any]:
        """Everything that another harness must match to get the same scores."""
        libraries = {name: version(name) for name in ("torch", "transformers")}
        return {
            "question": "the task's question, else the sample's own, in the task's prompt, as one user turn "
            "with its images; the turns of shots go before it",
            **self.asked.sampling(),
            "num_shots": self.recipe.eval.num_shots,
            **self._few_shot(),
            "image_size": self._image_size(),
            "max_pixels": self.recipe.data.max_pixels,
            **measuring(self.recipe),
            "qa_mean": "mean of the headline metrics of all tasks that are not captions",
            "versions": {"vila2cli": __version__, **libraries},
        }

    def _few_shot(self) -> dict[str, Any]:
        """What decides few-shot answers beside the task; nothing where no shots are shown."""
        settings = self.recipe.eval
        if settings.num_shots == 0:
            return {}
        return {
            "num_shots": settings.num_shots,
            "shots_dir": settings.shots_dir,
            "shots_seed": self.recipe.seed,
        }

    def _image_size(self) -> int | None:
        if self.asked.engine == "api":
            return None
        vision = read_json(resolve_model(self.model) / "config.json").get("vision_config")
        return vision.get("image_size") if isinstance(vision, dict) else None


def measuring(recipe: Recipe) -> dict[str, Any]:
    """What metrics.json says of how figures are worked out from scores."""
    return {
        "interval": f"{CONFIDENCE:.0%} percentile of a Poisson bootstrap over images, the same for all tasks; "
        f"of shares of fewer than {FEW_IMAGES} images, or all right or wrong, Newcombe's cautious interval",
        **({"box_frame": recipe.eval.box_frame} if recipe.eval.box_frame else {}),
        "num_bootstrap": recipe.eval.num_bootstrap,
        "seed": recipe.seed,
    }
