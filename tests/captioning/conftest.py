"""A shard with real samples, and a writer over it whose layer can be read back."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vila2cli.ask.fill import SampleTask
from vila2cli.ask.provenance import Provenance
from vila2cli.engine import Request, Result
from vila2cli.image import decode_image
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import TarWriter, open_layer, open_source, read_shard
from vila2cli.shards.sample import Annotation, Reject


class Table:
    """One sample with an alt-text and a recaption; `talk` runs a task on it with answers given by hand."""

    def __init__(self, folder: Path, alt_text: str | None, recaption: str | None) -> None:
        self.folder = folder
        stream = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(stream, "PNG")
        members = {"png": stream.getvalue()} | ({} if alt_text is None else {"txt": alt_text.encode()})
        (folder / "data").mkdir(parents=True)
        with TarWriter(folder / "data" / "0.tar") as tar:
            tar.write_sample("key", members)
        self.source = open_source([str(folder / "data" / "0.tar")])
        if recaption is not None:
            below = open_layer(folder / "below", layer="recaption", source=self.source)
            with below.shard(self.source.shards[0]) as out:
                for sample in out.samples():
                    out.annotate(sample, Annotation(layer="recaption", kind="caption", text=recaption))
            self.source = open_source([str(folder / "below")])
        self.asked: list[list[Request]] = []

    def talk(self, task: SampleTask[Any], layer: str, *steps: list[Result]) -> Annotation | Reject | None:
        """Give the task its results step by step; what it wrote about the sample, None when it left it out."""
        writer = open_layer(self.folder / "layer", layer=layer, source=self.source)
        answers = list(steps)
        with writer.shard(self.source.shards[0]) as out:
            for sample in out.samples():
                if not task.wants(out, sample):
                    continue
                dialogue = task.talk(out, sample, task.prepare(sample, decode_image))
                results: list[Result] | None = None
                while True:
                    try:
                        requests = next(dialogue) if results is None else dialogue.send(results)
                    except StopIteration:
                        break
                    self.asked.append(list(requests))
                    results = answers.pop(0)
                    assert len(results) == len(requests)
        assert not answers
        writer.finish()
        rejects = (self.folder / "layer" / "rejects.jsonl").read_text().splitlines()
        if rejects:
            return Reject(**json.loads(rejects[0]))
        found = [
            sample.annotation(layer)
            for shard in open_source([str(self.folder / "layer")]).shards
            for sample in read_shard(shard, on_reject=lambda reject: None)
        ]
        return found[0]

    @property
    def stats(self) -> dict[str, Any]:
        """The figures of the layer's shard."""
        value: dict[str, Any] = json.loads((self.folder / "layer" / "0.stats.json").read_text())
        return value


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Table]:
    def lay(alt_text: str | None = "red thing", recaption: str | None = None) -> Table:
        return Table(tmp_path / str(len(list(tmp_path.iterdir()))), alt_text, recaption)

    return lay


@pytest.fixture
def provenance() -> Provenance:
    return Provenance(
        model="m", model_sha256="0" * 64, round=1, draw=1, dtype={"dtype": "float32"}, engine="hf"
    )


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    from vila2cli.settings.recipe import load_recipe

    return lambda *sets: load_recipe(None, list(sets))
