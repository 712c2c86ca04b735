"""One training job: shards to samples, the phases of a stage one after another, a checkpoint folder.

Beside the stock transformers files a checkpoint holds `vila2.json` (what it was made from), `log.jsonl`
and `steps.jsonl`, and `rejects.jsonl` when samples could not be used.
"""

import contextlib
import functools
import io
import itertools
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from vila2cli import __version__
from vila2cli.errors import DataError, Interrupted, ModelError, RecipeError
from vila2cli.files import to_json_bytes
from vila2cli.model.chat import Chat
from vila2cli.model.checkpoint import read_config, resolve_model
from vila2cli.model.loading import cast, load_image_text, load_processor
from vila2cli.model.saving import save_checkpoint
from vila2cli.run.folder import complete_folder, write_json
from vila2cli.run.locks import lock
from vila2cli.run.progress import Progress
from vila2cli.run.recipe_file import store_recipe
from vila2cli.run.results import REST, StageResult, key
from vila2cli.run.stopping import Stop, interruptible
from vila2cli.settings import TrainSettings
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import Shard, Source
from vila2cli.shards.rejects import REJECTS_FILE
from vila2cli.shards.sample import Reject
from vila2cli.text.choose import drawn_line
from vila2cli.train import accounts
from vila2cli.train.choosing import Choosing
from vila2cli.train.data import Compose
from vila2cli.train.distribution import Ranks, joined
from vila2cli.train.journal import Journal
from vila2cli.train.launch import read_launch
from vila2cli.train.loop import Surroundings, fit
from vila2cli.train.lora import adapted, adapted_layers
from vila2cli.train.manner import Manner
from vila2cli.train.memory import naming_what_to_lower
from vila2cli.train.pictures import threads_here
from vila2cli.train.plan import drawn_captions, expected, num_steps, plan_pass
from vila2cli.train.resume import Checkpoints, Cursor, renewed
from vila2cli.train.reuse import trained_once
from vila2cli.train.store import FEWER_TILES, SampleStore, Stored, store_shard
from vila2cli.train.survey import survey_of

DATA_FOLDER = "data"
"""Where in the partial output the tokenised samples are."""
LINEAGE_FILE = "vila2.json"


@dataclass(frozen=True, slots=True)
class DataSource:
    """A named source of training samples and how its samples become conversations.

    One of text alone `may_lack_images`; elsewhere a caption without its picture is a reject. With `choosing`
    one of several captions of a sample is drawn in each epoch, and `compose` gives what there is beside them.
    """

    name: str
    source: Source
    compose: Compose
    may_lack_images: bool = False
    choosing: Choosing | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """One optimizer run of a stage, over all its sources together.

    Where others train the same phase, its weights are kept in the folder `shared`.
    """

    name: str
    settings: TrainSettings
    sources: Sequence[DataSource]
    shared: Path | None = None

    @property
    def table(self) -> str:
        """The table of the recipe that sets it."""
        what, _, specialist = self.name.partition(" ")
        return f"specialists.{specialist}" if specialist else what if what == "sft" else f"pretrain.{what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary(StageResult):
    """What vila2.json holds: figures of every phase, and in `lineage` what the checkpoint was made from."""

    stage: str
    vila2: str
    processes: int
    seconds: float
    num_rejected: int
    phases: Sequence[Mapping[str, Any]]
    lineage: Mapping[str, Any] = key(REST)

    def lines(self) -> list[str]:
        """What was trained, for the terminal; the rest is in vila2.json."""
        rejected = accounts.rejected_lines(self.num_rejected, REJECTS_FILE)
        return [*map(accounts.phase_line, self.phases), *rejected, f"every figure and setting: {LINEAGE_FILE}"]


def load_checkpoint(model: str | Path) -> tuple[PreTrainedModel, Any]:
    """A checkpoint in float32 with its processor; raises ModelError when it cannot be loaded, or not whole.

    So it does for a quantized one, whose training could not be saved.
    """
    folder = resolve_model(model)
    if read_config(folder / "config.json").get("quantization_config"):
        raise ModelError(
            f"{folder} is quantized (quantization_config in its config.json), so it can be asked but not "
            "trained; give the checkpoint that it was made from"
        )
    return load_image_text(folder, dtype="float32"), load_processor(folder)


def train_stage(
    stage: str,
    model: PreTrainedModel,
    processor: Any,
    phases: Sequence[Phase],
    *,
    recipe: Recipe,
    lineage: dict[str, Any],
    out: Path,
) -> TrainSummary:
    """Train all phases and write the checkpoint to `out`, whole or not at all.

    To `lineage` are added the digests and places of the phases' sources. Started by several processes it is
    one training of them all, each of them digests its share, and only the first one writes. Started
    again after a signal or a crash it goes on from the last checkpoint in `out.partial`, with any number
    of processes. Returns the summary that is also in `vila2.json`. Raises RejectBudgetError above a
    phase's `max_reject_rate`, Interrupted on a signal between two steps, RankError when another process
    is missing.
    """
    launch = read_launch(recipe.trainer, recipe.base.dtype)
    _check(model, phases)
    with (
        joined(launch, recipe.trainer.timeout_s) as ranks,
        interruptible() as stop,
        contextlib.ExitStack() as held,
    ):
        partial = out.with_name(f"{out.name}.partial")
        chat = Chat(processor)
        manner = survey_of(model, chat, [phase.settings for phase in phases], recipe.trainer, ranks)
        lineage = {**lineage, **recipe.data.limits(), **sources_of(phases, ranks, stop)}

        def begin() -> None:
            held.enter_context(lock(out))
            held.enter_context(complete_folder(out, resume=True))

        ranks.first(begin)
        checkpoints = Checkpoints(partial, ranks)
        checkpoints.open({"stage": stage, **lineage})
        job = _Job(stage, recipe, chat, manner, partial, checkpoints, ranks, stop, lineage["data"])
        try:
            model = renewed(job.train(model, phases), ranks)
        except Interrupted as error:
            checkpoints.interrupt(str(error))
            raise
        summary = TrainSummary(
            stage=stage,
            vila2=__version__,
            processes=ranks.count,
            seconds=sum(f["seconds"] for f in checkpoints.cursor.finished if not f.get("trained_before")),
            num_rejected=len(job.rejects),
            phases=checkpoints.cursor.finished,
            lineage=lineage,
        )
        ranks.first(lambda: _finish(model, processor, job, summary))
    if (out / LINEAGE_FILE).exists() and job.ranks.is_first:
        # Only now: until `out` is there, a process that is killed goes on from them.
        Checkpoints(out, job.ranks).clear()
    return summary


def sources_of(phases: Sequence[Phase], ranks: Ranks, stop: Stop) -> dict[str, Any]:
    """The digests and the places of all sources by name; each process digests its share of the shards."""
    sources = {data.name: data.source for phase in phases for data in phase.sources}
    shards = [(name, shard) for name, source in sources.items() for shard in source.shards]

    def mine() -> list[tuple[str, dict[str, str]]]:
        with stop.at_once():
            return [(name, Source((shard,)).digest()) for name, shard in shards[ranks.index :: ranks.count]]

    digests: dict[str, dict[str, str]] = {name: {} for name in sources}
    for name, found in itertools.chain(*ranks.gather(mine)):
        digests[name] |= found
    return {"data": digests, "sources": {name: source.places() for name, source in sources.items()}}


def _finish(model: PreTrainedModel, processor: Any, job: "_Job", summary: TrainSummary) -> None:
    if job.recipe.base.dtype == "bfloat16":
        model.bfloat16()
    save_checkpoint(model, processor, job.partial)
    if job.rejects:
        lines = [to_json_bytes(reject.to_json()) + b"\n" for reject in job.rejects]
        (job.partial / REJECTS_FILE).write_bytes(b"".join(lines))
    store_recipe(job.partial, job.recipe)
    write_json(job.partial / LINEAGE_FILE, summary.to_json())
    shutil.rmtree(job.partial / DATA_FOLDER, ignore_errors=True)


@dataclass(eq=False)
class _Job:
    """A stage on one of its processes."""

    stage: str
    recipe: Recipe
    chat: Chat
    manner: Manner
    partial: Path
    checkpoints: Checkpoints
    ranks: Ranks
    stop: Stop
    digests: Mapping[str, Mapping[str, str]]

    def __post_init__(self) -> None:
        self._rejects: dict[tuple[str, str, str, int], Reject] = {}
        self.journal = Journal(
            self.partial if self.ranks.is_first else None,
            self.recipe.trainer,
            self.ranks.accelerator,
            project=self.recipe.name,
            name=f"{self.recipe.name} {self.stage}",
            config=self.recipe.model_dump(mode="json"),
        )

    @property
    def rejects(self) -> list[Reject]:
        """The samples that a phase could not use, each once however many phases read its source."""
        return list(self._rejects.values())

    def train(self, model: PreTrainedModel, phases: Sequence[Phase]) -> PreTrainedModel:
        """Run the phases that are not done yet; returns the model, which may be another object."""
        trainer, cursor = self.recipe.trainer, self.checkpoints.cursor
        if self.recipe.base.dtype == "bfloat16":
            cast(model, torch.float32 if trainer.master_weights else torch.bfloat16)
        if cursor.phase and not cursor.step:
            self.checkpoints.load(model)
        for number, phase in enumerate(phases):
            samples, counts = self._samples(number, phase)  # of finished phases, too: for the rejects
            if number < cursor.phase:
                continue
            train = functools.partial(self._train_phase, model, phase, samples, counts)
            if phase.shared is None or cursor.step:
                figures = train()
            else:
                figures = trained_once(
                    phase.shared, model, samples, phase.settings, self.recipe, self.ranks, train
                )
            self.checkpoints.cursor = cursor = Cursor(phase=number + 1, finished=[*cursor.finished, figures])
            self.checkpoints.save(model, None)
            if number + 1 < len(phases):
                model = renewed(model, self.ranks)
        self.journal.close()
        return model

    def _train_phase(
        self, model: PreTrainedModel, phase: Phase, samples: SampleStore, counts: dict[str, dict[str, int]]
    ) -> dict[str, Any]:
        settings, names = phase.settings, list(counts)
        one = plan_pass(samples.lengths, names, settings)
        wanted = expected(samples.lengths, names, one, settings.epochs)
        total = num_steps(one, batch_size=settings.batch_size, epochs=settings.epochs)
        if not total:
            raise RecipeError(f"{phase.name}: epochs and caps leave no sample to train on; raise them")
        label = self.stage if phase.name == self.stage else f"{self.stage} {phase.name}"
        is_first = self.ranks.is_first
        with Progress(
            label,
            total=total,
            unit="steps",
            log_path=[self.partial / "log.jsonl"] if is_first else [],
            stream=None if is_first else io.StringIO(),
        ) as progress:
            for line in (
                *accounts.opening_lines(counts, len(samples), settings.batch_size, total, phase.table),
                *accounts.beyond_lines(samples.lengths.tokens, model.config, phase.table),
            ):
                progress.note(line)
            if any(settings.blend()):
                progress.note(accounts.mixture_line("expected", wanted))
            around = Surroundings(
                trainer=self.recipe.trainer,
                ranks=self.ranks,
                checkpoints=self.checkpoints,
                journal=self.journal,
                stop=self.stop,
                manner=self.manner,
            )
            with (
                naming_what_to_lower(label, phase.table, settings, self.recipe, self.ranks.count),
                adapted(model, settings, self.partial if is_first else None, seed=self.recipe.seed),
            ):
                result = fit(
                    model,
                    self.chat,
                    samples,
                    settings,
                    seed=self.recipe.seed,
                    progress=progress,
                    lengths=samples.lengths,
                    names=names,
                    around=around,
                )
            progress.note(accounts.mixture_line("trained on", result.seen))
            drawn = drawn_captions(samples.lengths, names, one, epochs=settings.epochs, seed=self.recipe.seed)
            for line in map(drawn_line, drawn.values()):
                progress.note(line)
        more = {"drawn": drawn} if drawn else {}
        return {"phase": phase.name, "sources": counts, "expected": wanted, **asdict(result), **more}

    def _samples(self, number: int, phase: Phase) -> tuple[SampleStore, dict[str, dict[str, int]]]:
        """The samples of all sources of a phase, tokenised by all processes, and what each source gave."""
        sources, counts = [], {}
        for data in phase.sources:
            stored = self._stored(self.partial / DATA_FOLDER / str(number) / data.name, data, phase.settings)
            rejects = [reject for one in stored for reject in one.rejects]
            num_kept = sum(one.num_samples for one in stored)
            accounts.check_budget(data.name, num_kept, rejects, phase.settings.max_reject_rate, phase.table)
            times: Counter[tuple[str, str]] = Counter()
            for reject in rejects:  # of a key that is there several times each counts, in two phases once
                times[reject.shard, reject.key] += 1
                place = (data.name, reject.shard, reject.key, times[reject.shard, reject.key])
                self._rejects.setdefault(place, reject)
            sources.append(stored)
            counts[data.name] = {"filtered": sum(one.num_filtered for one in stored), "rejected": len(rejects)}
            if fewer := sum(one.num_fewer_tiles for one in stored):
                counts[data.name][FEWER_TILES] = fewer
        choices = {i: one.choosing.choice for i, one in enumerate(phase.sources) if one.choosing is not None}
        limits, decoding = [phase.settings.max_samples] * len(sources), self.recipe.data
        samples = SampleStore(sources, limits, decoding.max_pixels, choices, decoding.draft)
        rows = samples.lengths.rows(0)
        for i, name in enumerate(counts):
            here = rows[samples.lengths.source[rows] == i]
            figures = {"tokens": samples.lengths.tokens, "images": samples.lengths.images}
            sums = {key: int(values[here].sum()) for key, values in figures.items()}
            counts[name] = {"samples": len(here), **sums, **counts[name]}
        if not len(samples):
            raise DataError(
                f"{phase.name}: there is nothing to train on in {', '.join(counts) or 'no sources'}"
            )
        return samples, counts

    def _stored(self, folder: Path, data: DataSource, settings: TrainSettings) -> list[Stored]:
        """A source's shards, each tokenised by one of the processes."""
        chat = Chat(self.chat.processor, settings.chat_template) if settings.chat_template else self.chat

        def store(number: int, shard: Shard) -> Stored:
            path = folder / f"{number:06}.safetensors"
            return store_shard(
                shard,
                chat,
                data.compose,
                path,
                max_length=settings.max_length,
                check_stop=self.stop.check,
                digests=self.digests.get(data.name),
                may_lack_images=data.may_lack_images,
                max_pixels=self.recipe.data.max_pixels,
                draft=self.recipe.data.draft,
                num_workers=threads_here(self.recipe.trainer.workers, self.ranks.count),
                choosing=data.choosing,
            )

        shards = list(enumerate(data.source.shards))

        def mine() -> None:
            for number, shard in shards[self.ranks.index :: self.ranks.count]:
                store(number, shard)

        self.ranks.gather(mine)
        return [store(number, shard) for number, shard in shards]  # all of them are there now


def _check(model: PreTrainedModel, phases: Sequence[Phase]) -> None:
    """Raise RecipeError for a mixture that names a source which its phase does not have, before any phase runs,
    and ModelError for adapters on layers that the LLM does not have for them."""
    for phase in phases:
        names = [data.name for data in phase.sources]
        if unknown := [name for name in phase.settings.blend()[0] if name not in names]:
            raise RecipeError(f"{phase.name}: mixture.{unknown[0]} is none of its sources ({', '.join(names)})")
        if "lora" in phase.settings.train:
            adapted_layers(model, phase.settings.lora.targets)
