from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filter_data import LOOP, NUM_SAMPLES, NUM_SHARDS, encoded, picture, words

from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter
from vila2cli.stages.filter import filter_samples


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with a look-alike and copies across shards, an evaluation image, bad captions and bad images."""
    folder = tmp_path_factory.mktemp("data")
    for shard in range(NUM_SHARDS):
        with TarWriter(folder / "train" / f"{shard:06}.tar") as tar:
            for index in range(NUM_SAMPLES):
                number = shard * NUM_SAMPLES + index
                tar.write_sample(f"{number:09}", {"jpg": encoded(picture(number)), "txt": words(number)})
            if shard == 2:
                tar.write_sample("copy", {"jpg": encoded(picture(3)), "txt": b"a copy of 3"})
                tar.write_sample(
                    "look-alike", {"webp": encoded(picture(14, 90), "WEBP", 70), "txt": b"like 14"}
                )
                tar.write_sample(
                    "evaluated", {"jpg": encoded(picture(900), quality=60), "txt": b"a test image"}
                )
            if shard == 1:
                tar.write_sample("loop", {"jpg": encoded(picture(500)), "txt": LOOP.encode()})
                tar.write_sample("silent", {"jpg": encoded(picture(501))})
                tar.write_sample("cut-off", {"jpg": encoded(picture(502))[:-900], "txt": b"half a picture"})
                tar.write_sample(
                    "two", {"0.jpg": encoded(picture(503)), "1.jpg": encoded(picture(504)), "txt": b"x y"}
                )
                tar.write_sample("json", {"jpg": encoded(picture(505)), "json": b"{"})
    with TarWriter(folder / "eval" / "ocr" / "000000.tar") as tar:
        tar.write_sample("question", {"jpg": encoded(picture(900)), "json": b'{"question": "What?"}'})
    (folder / "eval" / "ocr" / "task.toml").write_text('answer_type = "short"')
    return folder


@pytest.fixture
def run(data: Path, tiny_checkpoint: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def call(*sets: str, out: str = "layer", **changes: Any) -> dict[str, Any]:
        always = ["filter.engine=hf", "filter.batch_size=8", "filter.max_reject_rate=0.2"]
        recipe = load_recipe(None, [*always, *sets])
        arguments: dict[str, Any] = {"shards": [f"{data}/train/*.tar"], "tasks": [f"{data}/eval"]}
        return filter_samples(
            recipe, **({**arguments, "model": tiny_checkpoint, "out": tmp_path / out} | changes)
        ).to_json()

    return call
