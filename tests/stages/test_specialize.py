"""`vila2 specialize --relabel`: accounting, and asking a server instead of a checkpoint."""

import io
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from chat_server import completion, serving
from vila2cli.errors import BudgetError, DataError, RecipeError
from vila2cli.run.workers import Worker
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter, open_source, read_shard
from vila2cli.shards.sample import Annotation
from vila2cli.stages.specialize import Answering, relabel

NUM_SHARDS, NUM_SAMPLES = 3, 4


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for shard in range(NUM_SHARDS):
        with TarWriter(tmp_path / "data" / f"{shard:06}.tar") as tar:
            for number in range(NUM_SAMPLES):
                tar.write_sample(f"{shard}-{number}", {"jpg": jpeg(shard * NUM_SAMPLES + number)})
    return tmp_path / "data"


def jpeg(number: int) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 10 + number).convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def call(*sets: str, model: Path | str, worker: Worker | None = None) -> dict[str, Any]:
        always = [
            f"specialists.ocr.data={data}",
            "specialists.ocr.prompts=ocr-v1",
            "specialists.ocr.questions=ocr",
            "specialists.ocr.max_new_tokens=8",
            "recaption.max_reject_rate=1",
        ]
        (summary,) = relabel(
            load_recipe(None, [*always, *sets]),
            [Answering("ocr", str(model), tmp_path / "ocr")],
            shards=[str(data)],
            worker=worker,
        )
        return summary.to_json()

    return call


def annotations(layer: Path) -> list[Annotation]:
    shards = open_source([str(layer)]).shards
    samples = (sample for shard in shards for sample in read_shard(shard, on_reject=lambda reject: None))
    return [found for sample in samples if (found := sample.annotation("ocr"))]


def test_an_unreadable_shard_is_named_and_the_others_are_accounted_for(
    run: Callable[..., dict[str, Any]], data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    cut = data / "000001.tar"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:1000])
    with TarWriter(data / "000002.tar") as tar:
        tar.write_sample("broken", {"jpg": jpeg(1)[:300]})
        tar.write_sample("whole", {"jpg": jpeg(1)})
    with pytest.raises(DataError, match=r"000001\.tar is damaged or cut off"):
        run("recaption.engine=hf", model=tiny_checkpoint)
    summary = json.loads((tmp_path / "ocr" / "summary.json").read_text())
    assert (summary["num_shards_done"], summary["num_shards"]) == (2, NUM_SHARDS)
    assert summary["in"] == NUM_SAMPLES + 2 == summary["out"] + sum(summary["dropped"].values())
    (reject,) = (
        reject
        for line in (tmp_path / "ocr" / "rejects.jsonl").read_text().splitlines()
        if (reject := json.loads(line))["key"] == "broken"
    )
    assert (reject["shard"], reject["reason"]) == ("000002", "bad-image")
    cut.write_bytes(whole)
    again = run("recaption.engine=hf", model=tiny_checkpoint)
    assert (again["num_shards_done"], again["in"]) == (NUM_SHARDS, 2 * NUM_SAMPLES + 2)
    assert again["cost"]["seconds"] > 0


def test_a_prompt_of_the_recipes_own_is_the_one_that_is_asked(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILA2_TEST_KEY", "only-for-this-test")
    text = "Read every sign."
    with serving() as start:
        server = start(lambda body, number: completion(f'The sign says "STOP {number}".'))
        sets = ["recaption.engine=api", f"api.base_url={server.url}", "api.key_env=VILA2_TEST_KEY"]
        sets += ["specialists.ocr.prompts=signs", f'prompts={{signs = "{text}"}}', "api.model=reader"]
        run(*sets, model="runs/specialists/ocr")
        assert all(text in json.dumps(body["messages"]) for body in server.bodies)
    for annotation in annotations(tmp_path / "ocr"):
        assert (annotation.prompt_id, annotation.prompt_sha256) == ("signs", sha256(text.encode()).hexdigest())


def test_a_server_may_be_the_specialist(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILA2_TEST_KEY", "only-for-this-test")
    with serving() as start:
        server = start(lambda body, number: completion(f'The sign says "STOP {number}".'))
        sets = ["recaption.engine=api", f"api.base_url={server.url}", "api.key_env=VILA2_TEST_KEY"]
        prices = ["api.dollars_per_million_read=2", "api.dollars_per_million_written=10"]
        summary = run(*sets, *prices, "api.model=reader", model="runs/specialists/ocr")
        assert server.keys == {"Bearer only-for-this-test"}
        assert {body["model"] for body in server.bodies} == {"reader"}
        assert len(server.bodies) == summary["out"] == NUM_SHARDS * NUM_SAMPLES
        assert summary["cost"]["device"] == "server-hours"
        assert summary["cost"]["spent"] == pytest.approx(12 * (20 * 2 + 3 * 10) / 1e6)
        for one in annotations(tmp_path / "ocr"):
            assert (one.model, one.sampling["engine"]) == ("reader", "api")
            assert one.turns[1].text.startswith("The sign says")
        with pytest.raises(RecipeError, match=r'api\.model was "reader", now "writer"'):
            run(*sets, "api.model=writer", model="runs/specialists/ocr")
    assert "only-for-this-test" not in "".join(
        path.read_text() for path in (tmp_path / "ocr").iterdir() if path.suffix != ".gz"
    )


def test_a_budget_of_the_server_ends_the_work(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with serving() as start:
        server = start(lambda body, number: completion('It says "STOP".'))
        sets = ["recaption.engine=api", f"api.base_url={server.url}", "api.model=reader"]
        with pytest.raises(BudgetError, match="tokens were read"):
            run(*sets, "api.max_tokens_total=150", "api.max_in_flight=1", model="any")
        num_done = len(list((tmp_path / "ocr").glob("*.tar.gz")))
        assert 0 < num_done < NUM_SHARDS
        assert run(*sets, model="any")["num_shards_done"] == NUM_SHARDS


def test_a_specialist_answers_with_one_engine(
    run: Callable[..., dict[str, Any]], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    run("recaption.engine=hf", model=tiny_checkpoint, worker=Worker(0, 2))
    path = tmp_path / "ocr" / "layer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"engine": "vllm"}))
    with pytest.raises(RecipeError, match="begun with the engine vllm, and here it would go on with hf"):
        run("recaption.engine=hf", model=tiny_checkpoint, worker=Worker(1, 2))
