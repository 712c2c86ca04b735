"""What a training says of its steps: steps.jsonl, and accelerate's trackers where the recipe names some."""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from vila2cli.errors import RecipeError
from vila2cli.files import write_atomically
from vila2cli.run.folder import append_log
from vila2cli.settings import TrainerSettings

STEPS_FILE = "steps.jsonl"
TRACKERS_FOLDER = "trackers"
"""Where trackers that write files do so, in a folder named as the recipe."""


class Journal:
    """Averages the figures of steps and writes them every `log_every` steps, on the first process alone.

    Trackers are those of `accelerator`. Raises RecipeError when one that the recipe names is not installed.
    """

    def __init__(
        self,
        folder: Path | None,
        settings: TrainerSettings,
        accelerator: Accelerator,
        *,
        project: str,
        name: str,
        config: Mapping[str, Any],
    ) -> None:
        self._path = None if folder is None else folder / STEPS_FILE
        self._every = settings.log_every if folder is not None else 0
        self._accelerator, self._before = accelerator, 0
        if folder is not None and settings.log_with:
            there = [str(tracker) for tracker in get_available_trackers()]
            if missing := [tracker for tracker in settings.log_with if tracker not in there]:
                extra = missing[0].replace("_", "-")
                raise RecipeError(f"trainer.log_with needs {missing[0]}: pip install 'vila2cli[{extra}]'")
            accelerator.project_configuration.set_directories(str(folder / TRACKERS_FOLDER))
            accelerator.log_with = list(settings.log_with)
            plain = {key: one if isinstance(one, str | int) else json.dumps(one) for key, one in config.items()}
            accelerator.init_trackers(project, plain, {"wandb": {"name": name, "resume": "allow"}})
        self._totals: dict[str, float] = {}
        self._since = time.monotonic()

    def go_on(self, phase: str, step: int, before: int = 0) -> None:
        """Forget lines of steps that are taken again after a resume; `before` the phase were as many steps."""
        self._before = before
        if self._path is not None and self._path.exists():
            lines = self._path.read_bytes().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")]  # a kill may have cut off the last one
            ones = [(line, json.loads(line)) for line in whole]
            kept = [line for line, one in ones if one["phase"] != phase or one["step"] <= step]
            write_atomically(self._path, b"".join(kept))
        self.start()

    def start(self) -> None:
        """Measure speed from here on."""
        self._totals, self._since = {}, time.monotonic()

    def step(
        self, phase: str, number: int, totals: Mapping[str, float], now: Mapping[str, Any], peak: float
    ) -> None:
        """Add a step's totals; `now` holds figures that are not summed up. `peak` is in operations a second."""
        for key, value in totals.items():
            self._totals[key] = self._totals.get(key, 0.0) + value
        if not self._every or number % self._every:
            return
        seconds = time.monotonic() - self._since
        figures = {**now, **rates(self._totals, seconds, peak)}
        assert self._path is not None
        append_log(self._path, phase=phase, step=number, **figures)
        flat = {f"{phase}/{key}": value for key, value in _flat(figures)}
        self._accelerator.log(flat, step=self._before + number)
        self.start()

    def close(self) -> None:
        """End the trackers; `Accelerator.end_training` would also end the group in which processes meet."""
        for tracker in self._accelerator.trackers:
            tracker.finish()


def rates(totals: Mapping[str, float], seconds: float, peak: float) -> dict[str, Any]:
    """Speed and padding of some steps; loss by source is the mean over each source's trained tokens."""
    seconds = max(seconds, 1e-9)
    found: dict[str, Any] = {
        "tokens_per_s": totals.get("tokens", 0.0) / seconds,
        "images_per_s": totals.get("images", 0.0) / seconds,
    }
    if places := totals.get("places"):
        found["padding"] = 1 - totals["tokens"] / places
    if peak and "flops" in totals:
        found["mfu"] = totals["flops"] / seconds / peak
    if torch.cuda.is_available():
        found["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    losses = {key.removeprefix("loss/"): value for key, value in totals.items() if key.startswith("loss/")}
    found["loss_by_source"] = {
        name: value / trained for name, value in losses.items() if (trained := totals.get(f"trained/{name}"))
    }
    return found


def _flat(figures: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, float]]:
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            yield prefix + key, float(value)
