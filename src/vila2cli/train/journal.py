"""What a training says of its steps: steps.jsonl, and TensorBoard or Weights & Biases where asked for."""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from vila2cli.errors import RecipeError
from vila2cli.files import write_atomically
from vila2cli.run.folder import append_log
from vila2cli.settings import TrainerSettings

STEPS_FILE = "steps.jsonl"


class Journal:
    """Averages the figures of steps and writes them every `log_every` steps, on the first process alone.

    Raises RecipeError when a logger that the recipe asks for is not installed.
    """

    def __init__(
        self, folder: Path | None, settings: TrainerSettings, *, name: str, config: Mapping[str, Any]
    ) -> None:
        self._path = None if folder is None else folder / STEPS_FILE
        self._every = settings.log_every if folder is not None else 0
        self._board = self._run = None
        if folder is not None and settings.tensorboard:
            self._board = _board(folder / "tensorboard")
        if folder is not None and settings.wandb_project:
            self._run = _wandb().init(
                project=settings.wandb_project, name=name, config=dict(config), resume="allow"
            )
        self._totals: dict[str, float] = {}
        self._since = time.monotonic()

    def go_on(self, phase: str, step: int) -> None:
        """Forget lines of steps that are taken again after a resume."""
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
        for key, value in _flat(figures):
            if self._board is not None:
                self._board.add_scalar(f"{phase}/{key}", value, number)
        if self._run is not None:
            self._run.log({f"{phase}/{key}": value for key, value in _flat(figures)})
        self.start()

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
        if self._run is not None:
            self._run.finish()


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


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RecipeError("trainer.tensorboard = true needs tensorboard; pip install tensorboard") from None
    return SummaryWriter(str(folder))


def _wandb() -> Any:
    try:
        import wandb
    except ImportError:
        raise RecipeError("trainer.wandb_project needs wandb; pip install wandb") from None
    return wandb
