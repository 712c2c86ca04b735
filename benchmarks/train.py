"""How fast a step of pretraining is: packed against padded, and against transformers' Trainer.

All arms train projector and LLM of the same model on the same samples of the embedded world's
pretraining data, in the batches of recipes/world.toml, one after another in one process:
  trainer        transformers' Trainer, batches padded by a collator as its documentation shows
  padded         ours, batches padded
  packed         ours, packed
  padded-cached, packed-cached   ours with the frozen tower's features kept, as the recipe has it
Each arm runs --repeats times in turn; the figure is the median of tokens of samples (no padding) a second.

With --large an 8B-class model of random weights (SigLIP-so400m and Llama-3-8B sizes, bfloat16) is trained
packed at sequence length 4096 on one GPU, for its share of 790 TFLOP/s and where the rest of the time goes.

    python benchmarks/train.py
    python benchmarks/train.py --large --out benchmarks/results/train-h200.json
"""

import argparse
import io
import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np
import running
import torch
from PIL import Image
from recaption_model import SIZES, build_model
from running import RECIPE, REPO, RESULTS, machine, write_results
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments

from vila2cli.model.build import build
from vila2cli.model.chat import Chat, collate
from vila2cli.model.freeze import freeze_all_but
from vila2cli.run.progress import Progress
from vila2cli.settings import TrainerSettings, TrainSettings
from vila2cli.settings.recipe import Recipe, load_recipe
from vila2cli.shards import open_source, read_shard
from vila2cli.shards.sample import EncodedImage, Sample, Turn
from vila2cli.text.compose import composition_of, conversations
from vila2cli.train.data import Lengths, TrainSample, encode_sample, lengths_of
from vila2cli.train.distribution import alone
from vila2cli.train.flops import work_of
from vila2cli.train.launch import Launch
from vila2cli.train.loop import Surroundings, fit
from vila2cli.train.plan import plan_steps
from vila2cli.world.write import write_world

PEAK_TFLOPS = 790.0
"""What a large bfloat16 matrix product reaches on an H200, not what its data sheet says."""
SEQUENCE = 4096
Arm = Callable[[], dict[str, float]]


def world_samples(recipe: Recipe, data: Path, chat: Chat, num: int) -> list[TrainSample]:
    """Samples of the world's second pretraining phase, captioned pictures and documents, shuffled."""
    if not (data / "world.json").exists():
        write_world(recipe, data)
    compose = partial(conversations, composition=composition_of(recipe.pretrain.main, recipe.seed))
    found: list[TrainSample] = []
    for name in ("pretrain", "interleaved"):
        for shard in open_source([f"{data}/{name}"]).shards:
            for sample in read_shard(shard, on_reject=lambda reject: None):
                made = [encode_sample(sample, chat, turns, 2048) for turns in compose(sample)]
                found += [replace(one, key=f"{shard.url}/{one.key}") for one in made]
    Random("benchmark").shuffle(found)
    return found[:num]


def ours(recipe: Recipe, samples: Sequence[TrainSample], **changes: Any) -> dict[str, float]:
    """Train with this package's loop, from a fresh model; the optimizer steps are timed, not the set-up."""
    model, processor = build(recipe.base, seed=0)
    settings = recipe.pretrain.main.model_copy(update={"cache_features": False, **changes})
    with Progress("benchmark", unit="steps", stream=io.StringIO()) as progress:
        result = fit(model, Chat(processor), samples, settings, seed=0, progress=progress)
    return {
        "tokens_per_s": result.num_tokens / result.seconds,
        "padding": result.padding,
        "seconds": result.seconds,
        "final_loss": result.final_loss,
    }


def by_trainer(recipe: Recipe, samples: Sequence[TrainSample], epochs: float) -> dict[str, float]:
    """Train with transformers' Trainer: the recipe's batch by accumulation, each pass padded to its longest."""
    model, processor = build(recipe.base, seed=0)
    chat, settings = Chat(processor), recipe.pretrain.main
    freeze_all_but(model, settings.train)
    places = 0

    def padded(batch: Sequence[TrainSample]) -> dict[str, torch.Tensor]:
        nonlocal places
        rows = collate([(sample.ids, sample.labels) for sample in batch], chat.tokenizer.pad_token_id or 0)
        tensors = {name: torch.tensor(values) for name, values in rows.items()}
        places += tensors["input_ids"].numel()
        return tensors | chat.pixel_inputs([sample.decoded() for sample in batch])

    micro = settings.micro_batch_size
    arguments = TrainingArguments(
        output_dir=str(REPO / "runs" / "benchmark-train" / "trainer"),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // micro,
        num_train_epochs=epochs,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_ratio,  # below 1 it is a share
        lr_scheduler_type="cosine",
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        seed=0,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=list(samples), data_collator=padded)
    start = time.monotonic()
    result = trainer.train()
    seconds = time.monotonic() - start
    num_tokens = epochs * sum(len(sample.ids) for sample in samples)
    return {
        "tokens_per_s": num_tokens / seconds,
        "padding": 1 - num_tokens / places,
        "seconds": seconds,
        "final_loss": float(result.training_loss),
    }


def world(options: argparse.Namespace) -> dict[str, Any]:
    """Every arm in turn, `repeats` times, and medians."""
    sizes = {"pretrain": options.samples, "interleaved": max(1, options.samples * 2 // 25)}
    sizes |= dict.fromkeys(("text", "sft", "specialist", "dev", "eval"), 1)
    recipe = load_recipe(RECIPE, [f"world.num_{name}={num}" for name, num in sizes.items()])
    processor = build(recipe.base, seed=0)[1]
    data = options.work / f"data-{options.samples}"
    samples = world_samples(recipe, data, Chat(processor), options.samples)
    epochs = options.epochs
    packed = {"packing": True, "pack_length": options.pack_length, "micro_batch_size": options.pack_rows}
    arms: dict[str, Arm] = {
        "trainer": lambda: by_trainer(recipe, samples, epochs),
        "padded": lambda: ours(recipe, samples, epochs=epochs),
        "packed": lambda: ours(recipe, samples, epochs=epochs, **packed),
        "padded-cached": lambda: ours(recipe, samples, epochs=epochs, cache_features=True),
        "packed-cached": lambda: ours(recipe, samples, epochs=epochs, cache_features=True, **packed),
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for _ in range(options.repeats):
        for name, arm in arms.items():
            runs[name].append(arm())
            print(f"{name}: {runs[name][-1]}", flush=True)
    speed = {name: median(run["tokens_per_s"] for run in found) for name, found in runs.items()}
    tokens = [len(sample.ids) for sample in samples]
    return {
        "machine": machine() | {"num_threads": torch.get_num_threads()},
        "samples": {
            "count": len(samples),
            "tokens": {"min": min(tokens), "median": median(tokens), "max": max(tokens)},
        },
        "epochs": epochs,
        "pack_length": options.pack_length,
        "tokens_per_s": speed,
        "over_trainer": {name: value / speed["trainer"] for name, value in speed.items()},
        "padding": {name: found[0]["padding"] for name, found in runs.items()},
        "runs": runs,
    }


def large_samples(chat: Chat, num: int, side: int, vocab_size: int) -> list[TrainSample]:
    """Pictures of noise with 40 to 250 made-up words, about as long as alt-text and recaption together."""
    random, made = Random("large"), []
    for i in range(num):
        stream = io.BytesIO()
        noise = np.random.default_rng(i).integers(0, 255, (side, side, 3), np.uint8)
        Image.fromarray(noise).save(stream, "JPEG")
        words = " ".join(f"w{random.randint(1400, vocab_size - 1)}" for _ in range(random.randint(40, 250)))
        image = EncodedImage(stream.getvalue(), "jpg")
        turns = [Turn("user", "<image>"), Turn("assistant", words)]
        made.append(encode_sample(Sample(key=str(i), images=(image,)), chat, turns, SEQUENCE))
    return made


class Clock(Progress):
    """Progress that keeps when each step ended, which is when its loss was read: the device is done then."""

    def __init__(self, label: str, *, total: int) -> None:
        super().__init__(label, total=total, unit="steps")
        self.times: list[float] = []

    def advance(self, n: int = 1, **figures: Any) -> None:
        self.times.append(time.monotonic())
        super().advance(n, **figures)


def large(options: argparse.Namespace) -> dict[str, Any]:
    """MFU of a model of a size in the pretraining stage (projector and LLM trained), after warm-up steps."""
    size = SIZES[options.size]
    folder = build_model(size, options.work / options.size)
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=getattr(torch, size.dtype), device_map=None
    )
    chat = Chat(AutoProcessor.from_pretrained(folder))
    settings = TrainSettings(
        train=("projector", "llm"),
        learning_rate=1e-5,
        batch_size=options.batch_size,
        micro_batch_size=1,
        packing=True,
        pack_length=SEQUENCE,
    )
    num = options.batch_size * (options.steps + 1)  # the first step is not counted
    samples = large_samples(chat, num, size.picture_side, size.text["vocab_size"])
    around = Surroundings(
        trainer=TrainerSettings(gradient_checkpointing=options.gradient_checkpointing, compile=options.compile),
        ranks=alone(Launch(is_bf16=size.dtype == "bfloat16")),
    )
    lengths = lengths_of(samples)
    steps = [list(step.samples) for step in plan_steps(lengths, ["samples"], settings, seed=0)]
    flops = flops_of(model, settings, lengths, steps)
    profiler = torch.profiler.profile() if options.profile else None
    with Clock("large", total=len(steps)) as clock, profiler or nullcontext():
        result = fit(model, chat, samples, settings, seed=0, progress=clock, lengths=lengths, around=around)
    seconds = clock.times[-1] - clock.times[0]  # from the end of the first step on
    found = {
        "model": {"size": options.size, "parameters": sum(p.numel() for p in model.parameters())},
        "sequence": SEQUENCE,
        "samples_per_step": options.batch_size,
        "median_tokens_per_sample": median(lengths.tokens.tolist()),
        "gradient_checkpointing": options.gradient_checkpointing,
        "compile": options.compile,
        "seconds_per_step": seconds / max(1, len(steps) - 1),
        "tokens_per_s": sum(int(lengths.tokens[step].sum()) for step in steps[1:]) / seconds,
        "tflops": sum(flops[1:]) / seconds / 1e12,
        "mfu": sum(flops[1:]) / seconds / 1e12 / PEAK_TFLOPS,
        "peak_tflops": PEAK_TFLOPS,
        "padding": result.padding,
    }
    profile = {} if profiler is None else {"profile": shares(profiler, is_cuda=torch.cuda.is_available())}
    return {**device_figures(), **found, **profile}


def flops_of(model: Any, settings: TrainSettings, lengths: Lengths, steps: Sequence[list[int]]) -> list[float]:
    """The operations of each step, given its samples."""
    work = work_of(model, settings.train)
    return [
        work.of(
            tokens=int(lengths.tokens[step].sum()),
            pairs=int((lengths.tokens[step] ** 2).sum()),
            trained=int(lengths.trained[step].sum()),
            images=int(lengths.images[step].sum()),
        )
        for step in steps
    ]


def device_figures() -> dict[str, Any]:
    """The machine, and the most memory that was taken on its device."""
    if not torch.cuda.is_available():
        return {"machine": machine() | {"device": "cpu"}, "memory_gib": None}
    peak = torch.cuda.max_memory_allocated() / 2**30
    return {"machine": machine() | {"device": torch.cuda.get_device_name()}, "memory_gib": peak}


def shares(profiler: Any, *, is_cuda: bool) -> list[dict[str, Any]]:
    """The operations that take most of the device's own time, and their shares of it."""
    key = "self_device_time_total" if is_cuda else "self_cpu_time_total"
    rows = sorted(profiler.key_averages(), key=lambda row: -getattr(row, key))
    total = sum(getattr(row, key) for row in rows) or 1.0
    return [
        {"name": row.key[:120], "share": getattr(row, key) / total, "calls": row.count} for row in rows[:25]
    ]


def main() -> None:
    parser = running.parser_of(__doc__)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pack-length", type=int, default=256)
    parser.add_argument("--pack-rows", type=int, default=0, help="packed sequences per forward pass, 0 for all")
    parser.add_argument("--large", action="store_true", help="MFU of a large model instead")
    parser.add_argument("--size", choices=list(SIZES), default=list(SIZES)[-1])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=96, help="samples per step with --large")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--profile", action="store_true", help="also where the time goes, which costs some")
    parser.add_argument("--work", type=Path, default=REPO / "runs" / "benchmark-train")
    parser.add_argument("--out", type=Path)
    options = running.parse(parser, samples=8, epochs=1.0, repeats=1)
    found = large(options) if options.large else world(options)
    out = options.out or RESULTS / ("train-large.json" if options.large else "train.json")
    write_results(out, found, options.work)
    print(json.dumps({key: value for key, value in found.items() if key != "runs"}, indent=1))


if __name__ == "__main__":
    main()
