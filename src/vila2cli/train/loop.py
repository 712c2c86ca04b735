"""The training loop of every stage: align, pretrain, SFT and specialists differ only in their settings."""

import contextlib
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from vila2cli.errors import Interrupted, ModelError, RecipeError
from vila2cli.model.chat import Chat
from vila2cli.model.freeze import freeze_all_but, parts_of
from vila2cli.run.feed import Waits, ahead
from vila2cli.run.progress import Progress
from vila2cli.run.stopping import Stop
from vila2cli.settings import Part, TrainerSettings, TrainSettings
from vila2cli.train.attention import describe_kernel, joins_sequences, kernel_of, set_kernel
from vila2cli.train.data import Lengths, TrainSample, lengths_of
from vila2cli.train.distribution import Ranks, alone
from vila2cli.train.features import TowerFeatures
from vila2cli.train.flops import peak_flops, work_of
from vila2cli.train.journal import Journal
from vila2cli.train.manner import Manner, begin_training
from vila2cli.train.objective import Batcher, Loaded, Objective, stand_in
from vila2cli.train.pictures import Showing, threads_here
from vila2cli.train.placement import Wrapped, layers
from vila2cli.train.plan import Step, num_steps, plan_pass, plan_steps
from vila2cli.train.resume import Checkpoints, Cursor
from vila2cli.train.survey import kernel_for, survey_of

_TO_DDP = "set trainer.strategy to ddp, or distributed_type to MULTI_GPU for accelerate launch"
_STOPPED_ELSEWHERE = "stopped by a signal to another process; run the same command again to go on"


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a phase did: optimizer steps, samples and tokens seen, mean loss of the last tenth of the steps.

    `padding` is the share of positions in forward passes that held no sample's token, `idle` that of
    forward passes in which a process had nothing to do, `seen` what each source gave. Of the `seconds` the
    model `waited_for_pictures`, or those of steps to come, ready by then, waited for it (`pictures_waited`).
    """

    num_steps: int
    num_samples: int
    num_tokens: int
    final_loss: float
    seconds: float
    padding: float
    idle: float
    waited_for_pictures: float
    pictures_waited: float
    seen: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a training runs in: other processes, settings, checkpoints, logs, and a wish to stop."""

    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    ranks: Ranks = field(default_factory=alone)
    checkpoints: Checkpoints | None = None
    journal: Journal | None = None
    stop: Stop = field(default_factory=Stop)
    manner: Manner | None = None  # None: found out when a phase begins


def fit(
    model: PreTrainedModel,
    chat: Chat,
    samples: Sequence[TrainSample],
    settings: TrainSettings,
    *,
    seed: int,
    progress: Progress,
    lengths: Lengths | None = None,
    names: Sequence[str] = ("samples",),
    around: Surroundings | None = None,
) -> FitResult:
    """Train the parts named in `settings` on `samples`, in place.

    The loss is the mean over the trained tokens of the whole batch, however it is cut into micro-batches
    and over processes. The order of samples is decided by `seed`. `lengths` are those of the samples,
    whose sources have `names`. Raises ModelError when the loss is no longer finite, Interrupted on a
    signal, between two steps and after a checkpoint.
    """
    lengths = lengths_of(samples) if lengths is None else lengths
    run = _Run(model, chat, samples, lengths, names, settings, seed, progress, around or Surroundings())
    return run.fit()


@dataclass(eq=False)
class _Run:
    """One phase while it runs."""

    model: PreTrainedModel
    chat: Chat
    samples: Sequence[TrainSample]
    lengths: Lengths
    names: Sequence[str]
    settings: TrainSettings
    seed: int
    progress: Progress
    around: Surroundings

    def __post_init__(self) -> None:
        model, chat, settings, around = self.model, self.chat, self.settings, self.around
        self.ranks, trainer, launch = around.ranks, around.trainer, around.ranks.launch
        is_sharded = launch.strategy == "zero" or (launch.is_sharded and self.ranks.count > 1)
        if is_sharded and settings.cache_features:
            raise RecipeError(f"cache_features needs the whole tower in each process; {_TO_DDP}")
        if is_sharded and "lora" in settings.train:
            raise RecipeError(f"lora is merged into whole weights; {_TO_DDP}")
        freeze_all_but(model, settings.train)
        torch.manual_seed(self.seed + self.ranks.index)
        begin_training(model)
        manner = around.manner or survey_of(model, chat, [settings], trainer, self.ranks)
        kernel = manner.packed_kernel if settings.packing else kernel_for(model, settings, trainer, self.ranks)
        self.own_kernel = kernel_of(model)
        set_kernel(model, kernel)
        self.progress.note(describe_kernel(kernel, is_packed=settings.packing))
        if trainer.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        for layer in layers(model) if trainer.compile else ():
            layer.compile()
        caches = settings.cache_features and "vision_tower" not in settings.train
        features = TowerFeatures(model) if caches else None
        self.showing = Showing(chat, threads_here(trainer.workers, self.ranks.count))
        self.waits = Waits()
        self.batcher = Batcher(
            chat,
            features,
            is_packed=settings.packing,
            in_one=settings.packing and joins_sequences(kernel),
            stand_in=stand_in(chat) if self.ranks.count > 1 or is_sharded else None,
            showing=self.showing,
            manner=manner,
        )
        one = plan_pass(self.lengths, self.names, settings)
        self.total = num_steps(one, batch_size=settings.batch_size, epochs=settings.epochs)
        self.work = work_of(model, settings.train)  # before the weights are in parts
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, settings),
            weight_decay=settings.weight_decay,
            fused=self.ranks.device.type == "cuda" or None,
        )
        objective = Objective(model, features, len(self.names), manner)
        with self.ranks.together(f"{self.progress.stage}, handing out the weights"):
            self.wrapped = Wrapped(
                objective, self.optimizer, self.ranks.accelerator, max_grad_norm=settings.max_grad_norm
            )
        name = torch.cuda.get_device_name(self.ranks.device) if self.ranks.device.type == "cuda" else ""
        self.peak = peak_flops(name, trainer.peak_tflops) * self.ranks.count

    def fit(self) -> FitResult:
        cursor = self._resume()
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        schedule = get_cosine_schedule_with_warmup(
            self.optimizer,
            round(self.settings.warmup_ratio * self.total),
            self.total,
            last_epoch=cursor.step - 1,
        )
        seconds_before, start = cursor.seconds, time.monotonic()
        self.waits.for_pictures, self.waits.for_engine = cursor.waited_for_pictures, cursor.pictures_waited
        losses = deque(cursor.losses, maxlen=max(1, self.total // 10))
        every = self.around.trainer.checkpoint_every
        for step, loaded in self._loaded(cursor.step):
            cursor.seconds, cursor.losses = seconds_before + time.monotonic() - start, list(losses)
            cursor.waited_for_pictures, cursor.pictures_waited = self.waits.for_pictures, self.waits.for_engine
            self._meet(cursor)
            with self.ranks.together(f"{self.progress.stage}, step {cursor.step + 1}"):
                losses.append(self._step(step, loaded, cursor))
            schedule.step()
            cursor.step += 1
            self.progress.advance(1, loss=losses[-1])
            if every and cursor.step % every == 0 and cursor.step < self.total:
                cursor.losses = list(losses)
                self._save()
        self.model.eval()
        set_kernel(self.model, self.own_kernel)
        self.wrapped.release()
        return self._result(cursor, list(losses), seconds_before + time.monotonic() - start)

    def _resume(self) -> Cursor:
        """Where to begin; with a checkpoint of this phase the weights and the optimizer are put in place."""
        checkpoints = self.around.checkpoints
        if checkpoints is None:
            return Cursor()
        cursor = checkpoints.cursor
        if cursor.step:
            checkpoints.load(self.model, self.optimizer)
            self.progress.go_on(cursor.step)
            self.progress.note(f"going on after step {cursor.step:,}")
        if self.around.journal is not None:
            before = sum(phase["num_steps"] for phase in cursor.finished)
            self.around.journal.go_on(self.progress.stage, cursor.step, before)
        return cursor

    def _meet(self, cursor: Cursor) -> None:
        """Wait for the other processes; stop together when one was told to."""
        where, stop = f"{self.progress.stage}, before step {cursor.step + 1}", self.around.stop
        self.ranks.meet(where)
        with self.ranks.naming_the_missing(where):
            if not self.ranks.any(stop.reason is not None):
                return
        self._save(stopped=stop.reason or _STOPPED_ELSEWHERE)
        stop.check()
        raise Interrupted(_STOPPED_ELSEWHERE)

    def _save(self, *, stopped: str = "") -> None:
        if self.around.checkpoints is not None:
            self.around.checkpoints.save(self.model, self.optimizer, stopped=stopped)

    def _loaded(self, first_step: int) -> Iterator[tuple[Step, list[Loaded]]]:
        """The steps with their tensors, made ahead where no cache of features is filled."""
        steps = plan_steps(
            self.lengths,
            self.names,
            self.settings,
            seed=self.seed,
            rank=self.ranks.index,
            num_ranks=self.ranks.count,
        )
        num = self.around.trainer.prefetch if self.batcher.features is None else 0
        left = islice(steps, first_step, None)
        made = ahead(self._load, left, num_workers=min(1, num), window=num + 1, waits=self.waits)
        with self.showing, contextlib.closing(made):
            for step, loaded in made:
                yield step, loaded.result()

    def _load(self, step: Step) -> list[Loaded]:
        source = self.lengths.source
        return [
            self.batcher.load([[(self.samples[i], int(source[i])) for i in members] for members in micro])
            for micro in step.micro_batches
        ]

    def _step(self, step: Step, loaded: Sequence[Loaded], cursor: Cursor) -> float:
        """Take an optimizer step on a batch's mean loss per trained token, and return that loss."""
        chosen = list(step.samples)
        num_trained = int(self.lengths.trained[chosen].sum())
        loss, by_source = 0.0, torch.zeros(len(self.names))
        for number, micro in enumerate(loaded, 1):
            tensors, keys = self.batcher.place(micro, self.ranks.device)
            with self.wrapped.micro_batch(is_last=number == len(loaded)):
                summed, parts = self.wrapped.objective(tensors, keys, micro.sample_lengths)
                self.ranks.watch.advance()
                part = summed / num_trained
                if part.requires_grad:  # not of text alone where only what looks at pictures is trained
                    # Gradients are averaged over processes.
                    self.wrapped.backward(part * self.ranks.count if self.ranks.count > 1 else part)
                self.ranks.watch.advance()
            loss += part.item()
            by_source += parts.cpu()
        local = [loss, float(sum(micro.tensors["input_ids"].numel() for micro in loaded))]
        local.append(float(sum(not micro for micro in step.micro_batches)))
        local.append(self._num_tiles(loaded))
        loss, places, idle, num_tiles, *sums = self.ranks.sum([*local, *by_source.tolist()])
        if not math.isfinite(loss):
            raise ModelError(f"the loss is {loss}; lower the learning rate ({self.settings.learning_rate})")
        norm = self.wrapped.step()
        cursor.num_places += int(places)
        cursor.num_idle += int(idle)
        self._note(chosen, loss, sums, places, num_tiles, norm, cursor)
        return loss

    def _num_tiles(self, loaded: Sequence[Loaded]) -> float:
        """Tiles of the pictures in forward passes, 0 for a model that cuts none."""
        pictures = self.batcher.chat.pictures
        if not pictures.tokens_per_tile:
            return 0.0
        ids = (micro.tensors["input_ids"] for micro in loaded)
        return float(sum(int((one == pictures.feature_id).sum()) for one in ids) // pictures.tokens_per_tile)

    def _note(
        self,
        chosen: list[int],
        loss: float,
        sums: Sequence[float],
        places: float,
        num_tiles: float,
        norm: float,
        cursor: Cursor,
    ) -> None:
        """Count what each source gave, and tell the journal."""
        lengths, totals = self.lengths, {"places": places}
        tables = {"tokens": lengths.tokens[chosen], "images": lengths.images[chosen]}
        source, trained = lengths.source[chosen], lengths.trained[chosen]
        for i, (name, summed) in enumerate(zip(self.names, sums, strict=True)):
            here = source == i
            counts = {"samples": int(here.sum()), **{k: int(v[here].sum()) for k, v in tables.items()}}
            seen = cursor.seen.setdefault(name, dict.fromkeys(counts, 0))
            for key, count in counts.items():
                seen[key] += count
            totals |= {f"loss/{name}": summed, f"trained/{name}": float(trained[here].sum())}
        totals |= {key: float(values.sum()) for key, values in tables.items()}
        totals["flops"] = self.work.of(
            tokens=int(totals["tokens"]),
            pairs=int((lengths.tokens[chosen] ** 2).sum()),
            trained=int(trained.sum()),
            images=int(num_tiles or totals["images"]),
        )
        if self.around.journal is not None:
            rates = {g["part"]: g["lr"] for g in self.optimizer.param_groups}
            now = {"loss": loss, "grad_norm": norm, "learning_rate": rates}
            self.around.journal.step(self.progress.stage, cursor.step + 1, totals, now, self.peak)

    def _result(self, cursor: Cursor, losses: Sequence[float], seconds: float) -> FitResult:
        num_tokens = int(sum(seen["tokens"] for seen in cursor.seen.values()))
        return FitResult(
            num_steps=self.total,
            num_samples=int(sum(seen["samples"] for seen in cursor.seen.values())),
            num_tokens=num_tokens,
            final_loss=sum(losses) / len(losses),
            seconds=seconds,
            padding=1 - num_tokens / max(1, cursor.num_places),
            idle=cursor.num_idle / max(1, self.total * self.ranks.count),
            waited_for_pictures=self.waits.for_pictures,
            pictures_waited=self.waits.for_engine,
            seen=cursor.seen,
        )


def parameter_groups(model: PreTrainedModel, settings: TrainSettings) -> list[dict[str, Any]]:
    """The trained parameters by part, each group with the part's peak learning rate."""
    groups: dict[Part, list[nn.Parameter]] = {part: [] for part in settings.train}
    places = parts_of(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[places[name]].append(parameter)
    rates = settings.part_learning_rates
    return [
        {"params": parameters, "lr": rates.get(part, settings.learning_rate), "part": part}
        for part, parameters in groups.items()
    ]
