"""A job on bad data with a server that dies twice: every sample ends as a caption, a fallback or a reject."""

import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vila2cli.captioning.summary import CaptionSummary
from vila2cli.engine import pace
from vila2cli.errors import ModelError
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter, open_source, read_shard
from vila2cli.shards.sample import Annotation
from vila2cli.stages.recaption import recaption

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
NUM_SHARDS, NUM_SAMPLES = 10, 20
BROKEN, OVERLONG, EMPTY = {17, 103}, {42, 180}, {7, 66, 181}
"""One in a hundred has a cut-off image, one an alt-text longer than the context; some have an empty one."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for shard in range(NUM_SHARDS):
        with TarWriter(folder / f"{shard:03}.tar") as tar:
            for number in range(shard * NUM_SAMPLES, (shard + 1) * NUM_SAMPLES):
                alt_text = (
                    "red " * 600 if number in OVERLONG else "" if number in EMPTY else f"picture {number}"
                )
                members = {"jpg": jpeg(number), "txt": alt_text.encode()}
                if number in BROKEN:
                    members["jpg"] = members["jpg"][:300]
                tar.write_sample(f"{number:04}", members)
    return folder


def jpeg(number: int) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 10 + number).convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


def run(server: Any, data: Path, out: Path, *, retries: int) -> CaptionSummary:
    recipe = load_recipe(
        None,
        [
            "recaption.engine=api",
            f"api.base_url={server.url}/v1",
            "api.model=tiny",
            "api.key_env=VILA2_TEST_KEY",
            "api.max_in_flight=8",
            f"api.retries={retries}",
            "recaption.prompts=mine",
            'prompts={mine = "This is called {alt_text}. Describe the image."}',
            "recaption.max_new_tokens=32",
            "recaption.max_reject_rate=1",
        ],
    )
    return recaption(recipe, shards=[str(data)], model="tiny", out=out, round=1)


@contextmanager
def dying(server: Any, out: Path, *, after: int, restart: bool) -> Iterator[threading.Thread]:
    """Kill the server as soon as `after` shards of the layer are done; start it again where asked to."""

    def watch() -> None:
        end_s = time.monotonic() + 300
        while len(list(out.glob("*.stats.json"))) < after and time.monotonic() < end_s:
            time.sleep(0.02)
        server.kill()
        if restart:
            server.start()

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield watcher
    watcher.join()


def read(out: Path) -> dict[str, Annotation]:
    shards = open_source([str(out)]).shards
    samples = (sample for shard in shards for sample in read_shard(shard, on_reject=lambda reject: None))
    return {sample.key: found for sample in samples if (found := sample.annotation("recaption"))}


def test_every_sample_is_accounted_for(
    vllm_server: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILA2_TEST_KEY", vllm_server.key)
    monkeypatch.setattr(pace, "MAX_WAIT_S", 2.0)
    out = tmp_path / "layer"
    # It dies once for longer than the tries last: the command ends, and what is done stays done ...
    with dying(vllm_server, out, after=2, restart=False), pytest.raises(ModelError):
        run(vllm_server, data, out, retries=2)
    done = {path.name: path.read_bytes() for path in out.glob("*.tar.gz")}
    assert 2 <= len(done) < NUM_SHARDS
    assert not list(out.glob("*.partial"))
    vllm_server.start()
    vllm_server.wait()
    # ... and once more for less: the command waits.
    with dying(vllm_server, out, after=len(done) + 3, restart=True):
        summary = run(vllm_server, data, out, retries=200)

    num_in = NUM_SHARDS * NUM_SAMPLES
    assert summary.num_shards_done == NUM_SHARDS
    assert summary.num_in == num_in == summary.num_out + sum(summary.dropped.values())
    assert done.items() <= {path.name: path.read_bytes() for path in out.glob("*.tar.gz")}.items()
    found = read(out)
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    keys = [*found, *(reject["key"] for reject in rejects)]
    assert sorted(keys) == [f"{number:04}" for number in range(num_in)]
    reasons = {int(reject["key"]): reject["reason"] for reject in rejects}
    assert {number for number, reason in reasons.items() if reason == "bad-image"} == BROKEN
    for number in OVERLONG:
        attempt = found[f"{number:04}"].decision["attempts"][0]
        assert attempt["defect"] == "engine-error"
        assert "512" in attempt["error"]
    assert summary.fallbacks["engine-error"] == len(OVERLONG)
    # Nothing else was lost to the server, and an image without alt-text has nothing to fall back to.
    assert set(reasons) - BROKEN <= EMPTY
    assert sum(summary.kept.values()) == summary.num_out == len(found)

    undisturbed = tmp_path / "undisturbed"
    vllm_server.wait()
    run(vllm_server, data, undisturbed, retries=2)
    again = read(undisturbed)
    assert again.keys() == found.keys()
    equal = sum(again[key].text == found[key].text for key in found)
    assert equal >= 0.99 * len(found)
