"""What a training says of itself: speed, losses by source, operations."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vila2cli.errors import RecipeError
from vila2cli.model.chat import Chat
from vila2cli.model.freeze import freeze_all_but
from vila2cli.settings import TrainerSettings
from vila2cli.train.data import TrainSample, lengths_of
from vila2cli.train.flops import peak_flops, work_of
from vila2cli.train.journal import Journal, rates
from vila2cli.train.objective import Batcher, Objective


def totals(loss: float) -> dict[str, float]:
    return {"tokens": 80.0, "places": 100.0, "images": 4.0, "flops": 3e9, "loss/a": loss, "trained/a": 20.0}


def test_rates_of_some_steps() -> None:
    found = rates({**totals(30.0), "loss/b": 0.0, "trained/b": 0.0}, 2.0, 3e9)
    assert (found["tokens_per_s"], found["images_per_s"], found["mfu"]) == (40.0, 2.0, 0.5)
    assert found["padding"] == pytest.approx(0.2)
    assert found["loss_by_source"] == {"a": 1.5}
    assert "mfu" not in rates(totals(1.0), 2.0, 0.0)


def test_lines_are_averages_and_those_taken_again_are_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path, TrainerSettings(log_every=2), name="test", config={})
    for phase in ("align", "main"):
        journal.go_on(phase, 0)
        for step in range(1, 7):
            journal.step(phase, step, totals(float(20 * step)), {"loss": float(step)}, 0.0)
    again = Journal(tmp_path, TrainerSettings(log_every=2), name="test", config={})
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
    journal = Journal(None, TrainerSettings(log_every=1), name="test", config={})
    journal.step("main", 1, totals(1.0), {}, 0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_logger_that_is_not_installed_is_named(tmp_path: Path) -> None:
    for package, settings in (
        ("tensorboard", TrainerSettings(tensorboard=True)),
        ("wandb", TrainerSettings(wandb_project="p")),
    ):
        try:
            __import__(package)
        except ImportError:
            with pytest.raises(RecipeError, match=f"pip install {package}"):
                Journal(tmp_path, settings, name="test", config={})


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
    Journal(tmp_path, TrainerSettings(), name="test", config={}).go_on("sft", 1)
    assert path.read_text() == '{"phase": "sft", "step": 1}\n'
