"""Three steps of instruction tuning, for any checkpoint of the zoo."""

from io import BytesIO
from pathlib import Path
from typing import Any

from archives import write_tar
from vila2cli.files import to_json_bytes
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import open_source
from vila2cli.shards.sample import Turn
from vila2cli.text.compose import Composition, conversations
from vila2cli.train.job import DataSource, Phase, load_checkpoint, train_stage
from zoo import picture


def write_shard(path: Path) -> Path:
    """Six conversations about pictures of odd shapes."""
    members = []
    for i in range(6):
        stream = BytesIO()
        picture(i).save(stream, "PNG")
        turns = [Turn("user", "<image>What is it?"), Turn("assistant", f"It shows {i} red bars.")]
        members += [
            (f"{i}.png", stream.getvalue()),
            (f"{i}.json", to_json_bytes({"messages": [turn.to_json() for turn in turns]})),
        ]
    return write_tar(path, members)


def tune(model: Any, processor: Any, shard: Path, out: Path) -> Any:
    """Train a loaded checkpoint, write it, and return the summary."""
    recipe = load_recipe(None, ["sft.batch_size=2", "sft.learning_rate=1e-3", "sft.max_length=1024"])
    source = DataSource(
        "sft", open_source([str(shard)]), lambda one: conversations(one, composition=Composition())
    )
    phase = Phase("sft", recipe.sft, [source])
    return train_stage("sft", model, processor, [phase], recipe=recipe, lineage={}, out=out)


def tuned(checkpoint: Path, out: Path) -> Path:
    """A checkpoint after three steps, as training writes it."""
    tune(*load_checkpoint(checkpoint), write_shard(out.with_name("shard") / "0.tar"), out)
    return out
