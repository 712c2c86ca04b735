"""Runs a scenario of test_distribution.py as one of several processes that train together.

python processes.py SCENARIO RANK COUNT PORT CHECKPOINT OUT
accelerate launch --config_file CONFIG processes.py SCENARIO - - - CHECKPOINT OUT
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from conversing import conversations
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from vila2cli.errors import RankError
from vila2cli.model.chat import Chat
from vila2cli.ranks import Rank, parse_rank
from vila2cli.run.progress import Progress
from vila2cli.run.stopping import Stop
from vila2cli.settings import TrainerSettings, TrainSettings
from vila2cli.shards import Shard, open_source
from vila2cli.train import distribution, loop, resume
from vila2cli.train.data import Lengths, encode_sample, lengths_of
from vila2cli.train.distribution import Ranks, joined
from vila2cli.train.job import DataSource, Phase, sources_of
from vila2cli.train.launch import Launch, read_launch
from vila2cli.train.loop import Surroundings, fit
from vila2cli.train.resume import Checkpoints, renewed, whole_weights

torch.set_num_threads(1)
EVERYTHING = ("vision_tower", "projector", "llm")


class Read(Sequence[Any]):
    """Samples that remember which of them were read, and may take their time over one."""

    def __init__(self, samples: Sequence[Any], slow: int = -1) -> None:
        self._samples, self._slow = samples, slow
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        self.read.append(index)
        if index == self._slow:
            time.sleep(60)
        return self._samples[index]


class Scenario:
    """A tiny model and five sources of 7, 1, 4, 2 and 3 conversations, the third of them without pictures."""

    def __init__(self, ranks: Ranks, checkpoint: Path) -> None:
        self.ranks = ranks
        self.chat = Chat(AutoProcessor.from_pretrained(checkpoint))
        self.model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype="float32")
        made = conversations(24)
        pictured = [sample for sample in made if sample.images]
        plain = [sample for sample in made if not sample.images]
        chosen = [*pictured[:8], *plain[:4], *pictured[8:13]]
        self.samples = [encode_sample(sample, self.chat, sample.turns, 2048) for sample in chosen]
        known = lengths_of(self.samples)
        source = torch.tensor([0] * 7 + [1] + [2] * 4 + [3] * 2 + [4] * 3).numpy()
        self.lengths = Lengths(known.tokens, known.images, known.trained, source, known.images)

    def fit(
        self, samples: Sequence[Any] | None = None, *, checkpoints: Any = None, **more: Any
    ) -> dict[str, Any]:
        trainer = {key: more.pop(key) for key in ("checkpoint_every",) if key in more}
        settings = TrainSettings(train=EVERYTHING, learning_rate=1e-3, **{"batch_size": 6, **more})
        with Progress("test", unit="steps") as progress:
            result = fit(
                self.model,
                self.chat,
                self.samples if samples is None else samples,
                settings,
                seed=3,
                progress=progress,
                lengths=self.lengths,
                names=list("abcde"),
                around=Surroundings(
                    ranks=self.ranks, trainer=TrainerSettings(prefetch=0, **trainer), checkpoints=checkpoints
                ),
            )
        return {"steps": result.num_steps, "loss": result.final_loss, "idle": result.idle, "seen": result.seen}


def uneven(ranks: Ranks, checkpoint: Path, out: Path) -> dict[str, Any]:
    """One pass over the five sources."""
    scenario = Scenario(ranks, checkpoint)
    read = Read(scenario.samples)
    figures = scenario.fit(read)
    if ranks.is_first:
        save_file(whole_weights(scenario.model, ranks), out / "weights.safetensors")
    return {**figures, "read": read.read}


def sharded(ranks: Ranks, checkpoint: Path, out: Path) -> dict[str, Any]:
    """The same with fsdp2, gone on with after a checkpoint in the middle."""
    folder = out / "partial"
    ranks.first(lambda: folder.mkdir() if not folder.exists() else None)
    checkpoints = Checkpoints(folder, ranks)
    checkpoints.open({"inputs": "the same"})
    scenario = Scenario(ranks, checkpoint)
    if not ranks.is_first:  # whatever the others have, the first one's weights are trained
        for parameter in scenario.model.parameters():
            parameter.data.zero_()
    figures = scenario.fit(checkpoints=checkpoints, checkpoint_every=2)
    weights = whole_weights(scenario.model, ranks)
    again = Checkpoints(folder, ranks)
    again.open({"inputs": "the same"})
    assert again.cursor.step == 2
    resumed = Scenario(ranks, checkpoint)
    resumed.fit(checkpoints=again)
    resumed.model.config.text_config.dtype = torch.bfloat16  # of a base, whose weights are trained in float32
    plain = renewed(resumed.model, ranks)
    tied = plain.get_output_embeddings().weight is plain.get_input_embeddings().weight
    if ranks.is_first:
        save_file(weights, out / "weights.safetensors")
        save_file(whole_weights(plain, ranks), out / "resumed.safetensors")
    resumed.model = plain  # as in a stage's next phase
    later = resumed.fit()["loss"]
    return {**figures, "gathered": len(weights), "tied": tied, "later": later}


def digested(ranks: Ranks, checkpoint: Path, out: Path) -> dict[str, Any]:
    """Two phases over one source of five shards, and a second source in the later one."""
    read: list[str] = []

    class Watched(Shard):
        def parts(self) -> dict[str, str]:
            read.append(self.name)
            return super().parts()

    def source(name: str) -> DataSource:
        opened = open_source([str(out / name)])
        shards = tuple(Watched(one.name, one.url, one.layers) for one in opened.shards)
        return DataSource(name, replace(opened, shards=shards), lambda sample: ())

    phases = [
        Phase("one", TrainSettings(), [source("many")]),
        Phase("two", TrainSettings(), [source("many"), source("few")]),
    ]
    return {"found": sources_of(phases, ranks, Stop()), "read": read}


def stalled(ranks: Ranks, checkpoint: Path, out: Path) -> dict[str, Any]:
    """Process 1 does not come back from reading a sample of its second step."""
    scenario = Scenario(ranks, checkpoint)
    try:
        scenario.fit(Read(scenario.samples, slow=int(os.environ["SLOW"]) if ranks.index == 1 else -1))
    except RankError as error:
        return {"error": str(error)}
    return {}


def held(ranks: Ranks, checkpoint: Path, out: Path) -> dict[str, Any]:
    """Process 1 does not come back from the forward pass of its second step."""
    scenario = Scenario(ranks, checkpoint)
    passes = itertools.count()

    def wait(*_: Any) -> None:
        if next(passes) == 1 and ranks.index == 1:
            time.sleep(120)

    scenario.model.get_input_embeddings().register_forward_pre_hook(wait)
    try:
        scenario.fit()
    except RankError as error:
        return {"error": str(error)}
    return {}


def gone(ranks: Ranks, checkpoint: Path, out: Path) -> dict[str, Any]:
    """Process 1 ends between two steps: before it is asked to stop, or amid a checkpoint."""
    folder = out / "partial"
    ranks.first(folder.mkdir)
    checkpoints = Checkpoints(folder, ranks)
    checkpoints.open({"inputs": "the same"})
    scenario = Scenario(ranks, checkpoint)
    if not ranks.is_first:
        target, name = (ranks, "any") if os.environ["WHERE"] == "any" else (resume, "whole_weights")
        setattr(target, name, lambda *_: os._exit(1))
    try:
        scenario.fit(checkpoints=checkpoints, checkpoint_every=1)
    except RankError as error:
        return {"error": str(error)}
    return {}


def parted(ranks: Ranks, checkpoint: Path, out: Path) -> dict[str, Any]:
    """Process 1 ends where weights in parts are handed out, gathered for good, or read again."""
    folder, where = out / "partial", os.environ["WHERE"]
    ranks.first(folder.mkdir)
    scenario = Scenario(ranks, checkpoint)
    checkpoints = Checkpoints(folder, ranks)
    checkpoints.open({"inputs": "the same"})
    if where == "put":
        scenario.fit(checkpoints=checkpoints, checkpoint_every=2)
        scenario = Scenario(ranks, checkpoint)
        checkpoints.open({"inputs": "the same"})
    if not ranks.is_first:
        setattr(loop if where == "Wrapped" else resume, where, lambda *_, **__: os._exit(1))
    try:
        scenario.fit(checkpoints=checkpoints if where == "put" else None)
        renewed(scenario.model, ranks)
    except RankError as error:
        return {"error": str(error)}
    return {}


def lost(rank: Rank, launch: Launch) -> dict[str, Any]:
    """Process 1 ends when all have met and none has begun."""
    distribution._GRACE_S = 2.0
    if rank.index == 1:
        distribution.dist.new_group = lambda **_: os._exit(1)
    try:
        with joined(launch, 1.0, rank):
            return {}
    except RankError as error:
        return {"error": str(error)}


def main() -> None:
    scenario, index, count, port, checkpoint, out = sys.argv[1:]
    if index == "-":
        rank, launch = parse_rank(), read_launch(TrainerSettings(), "float32")
    else:
        rank = Rank(int(index), int(count), int(index), f"tcp://127.0.0.1:{port}")
        launch = Launch("fsdp2" if scenario in ("sharded", "parted") else "ddp")
    if scenario == "lost":
        found = lost(rank, launch)
        (Path(out) / f"{scenario}-{rank.index}.json").write_text(json.dumps(found))
        os._exit(0)
    with joined(launch, float(os.environ.get("TIMEOUT", "120")), rank) as ranks:
        found = globals()[scenario](ranks, Path(checkpoint), Path(out))
        (Path(out) / f"{scenario}-{rank.index}.json").write_text(json.dumps(found))
        if scenario in ("stalled", "held", "gone", "parted"):
            os._exit(0)


if __name__ == "__main__":
    main()
