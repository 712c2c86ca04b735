"""What a training says of itself: speed, losses by source, operations."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers
from torch.utils.flop_counter import FlopCounterMode

from vila2cli.errors import RecipeError
from vila2cli.model.chat import Chat
from vila2cli.model.freeze import freeze_all_but
from vila2cli.settings import TrainerSettings
from vila2cli.train.data import TrainSample, lengths_of
from vila2cli.train.distribution import alone
from vila2cli.train.flops import peak_flops, work_of
from vila2cli.train.journal import Journal, rates
from vila2cli.train.objective import Batcher, Objective


def totals(loss: float) -> dict[str, float]:
    return {"tokens": 80.0, "places": 100.0, "images": 4.0, "flops": 3e9, "loss/a": loss, "trained/a": 20.0}


class Kept(GeneralTracker):
    """A tracker of one's own, as accelerate takes them."""

    name, requires_logging_directory = "kept", False

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int | None, dict[str, float]]] = []
        self.is_finished = False

    @property
    def tracker(self) -> "Kept":
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None: ...

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        self.lines.append((step, values))

    def finish(self) -> None:
        self.is_finished = True


def journal_in(
    folder: Path | None, settings: TrainerSettings, accelerator: Accelerator | None = None
) -> Journal:
    return Journal(
        folder, settings, accelerator or alone().accelerator, project="world", name="test", config={}
    )


def test_rates_of_some_steps() -> None:
    found = rates({**totals(30.0), "loss/b": 0.0, "trained/b": 0.0}, 2.0, 3e9)
    assert (found["tokens_per_s"], found["images_per_s"], found["mfu"]) == (40.0, 2.0, 0.5)
    assert found["padding"] == pytest.approx(0.2)
    assert found["loss_by_source"] == {"a": 1.5}
    assert "mfu" not in rates(totals(1.0), 2.0, 0.0)


def test_lines_are_averages_and_those_taken_again_are_dropped(tmp_path: Path) -> None:
    journal = journal_in(tmp_path, TrainerSettings(log_every=2))
    for phase in ("align", "main"):
        journal.go_on(phase, 0)
        for step in range(1, 7):
            journal.step(phase, step, totals(float(20 * step)), {"loss": float(step)}, 0.0)
    again = journal_in(tmp_path, TrainerSettings(log_every=2))
    again.go_on("main", 3)
    lines = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [(one["phase"], one["step"]) for one in lines] == [
        ("align", 2),
        ("align", 4),
        ("align", 6),
        ("main", 2),
    ]
    assert [one["loss_by_source"]["a"] for one in lines[:3]] == [1.5, 3.5, 5.5]


def test_a_process_that_does_not_write_has_no_journal(tmp_path: Path) -> None:
    journal = journal_in(None, TrainerSettings(log_every=1))
    journal.step("main", 1, totals(1.0), {}, 0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path) -> None:
    there = [str(tracker) for tracker in get_available_trackers()]
    missing = next(name for name in ("swanlab", "comet_ml", "aim", "wandb") if name not in there)
    with pytest.raises(RecipeError, match=f"trainer.log_with needs {missing}: pip install"):
        journal_in(tmp_path, TrainerSettings(log_with=missing))


def test_trackers_get_the_lines_of_all_phases_in_order(tmp_path: Path) -> None:
    accelerator = alone().accelerator
    journal = journal_in(tmp_path, TrainerSettings(log_every=2), accelerator)
    kept = Kept()
    accelerator.trackers.append(kept)
    for phase, before in (("align", 0), ("main", 4)):
        journal.go_on(phase, 0, before)
        for step in range(1, 5):
            journal.step(phase, step, totals(float(20 * step)), {"loss": float(step)}, 0.0)
    journal.close()
    assert [(step, *(v for key, v in line.items() if key.endswith("/loss"))) for step, line in kept.lines] == [
        (2, 2.0),
        (4, 4.0),
        (6, 2.0),
        (8, 4.0),
    ]
    assert {key.split("/")[0] for _, line in kept.lines[2:] for key in line} == {"main"}
    assert kept.is_finished


@pytest.mark.parametrize(
    "trained", [("projector", "llm"), ("vision_tower", "projector", "llm"), ("projector",)]
)
def test_operations_are_those_that_torch_counts(model, chat: Chat, samples: list[TrainSample], trained) -> None:
    freeze_all_but(model, trained)
    model.set_attn_implementation("eager")  # whose products are counted in full, the masked half with them
    one = next(sample for sample in samples if len(sample.images) == 1)
    batcher, lengths = Batcher(chat), lengths_of([one])
    tensors, keys = batcher.place(batcher.load([[(one, 0)]]), torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        Objective(model, None)(tensors, keys)[0].backward()
    tokens = len(one.ids)
    counts = {"tokens": tokens, "pairs": 2 * tokens**2, "trained": int(lengths.trained[0]), "images": 1}
    assert work_of(model, trained).of(**counts) == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_the_peak_of_a_device() -> None:
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA H200", 790.0) == 790e12
    assert peak_flops("some CPU") == 0.0


def test_a_line_that_a_kill_cut_off_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text('{"phase": "sft", "step": 1}\n{"phase": "sft", "step": 2}\n{"phase": "sf')
    journal_in(tmp_path, TrainerSettings()).go_on("sft", 1)
    assert path.read_text() == '{"phase": "sft", "step": 1}\n'
