"""The API engine against a real vLLM server on loopback."""

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vila2cli.engine import Engine, EngineSettings, Request, ScoreRequest, open_engine, pace
from vila2cli.errors import ModelError
from vila2cli.settings import ApiSettings

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
Ask = Callable[..., Request]


@pytest.fixture
def engine(vllm_server: Any) -> Engine:
    return connect(vllm_server)


def connect(server: Any) -> Engine:
    api = ApiSettings(base_url=f"{server.url}/v1", max_in_flight=24)
    return open_engine("api", "tiny", EngineSettings(api=api, api_key=server.key))


def hf(checkpoint: Path) -> Engine:
    return open_engine("hf", checkpoint, EngineSettings(dtype="float32", batch_size=16, max_model_len=512))


def test_captions_are_those_of_transformers(engine: Engine, tiny_checkpoint: Path, ask: Ask) -> None:
    requests = [ask(seed, max_new_tokens=32) for seed in range(40)]
    ours = {result.id: result for result in hf(tiny_checkpoint).generate(requests)}
    theirs = {result.id: result for result in engine.generate(requests)}
    assert set(theirs) == set(ours)
    for key, result in theirs.items():
        assert (result.text, result.num_tokens) == (ours[key].text, ours[key].num_tokens)
        assert result.finish_reason == ours[key].finish_reason
        assert result.logprob_mean == pytest.approx(ours[key].logprob_mean, abs=1e-4)


def test_json_cannot_run_into_white_space(vllm_server: Any, ask: Ask) -> None:
    """The server was started without its own setting against it, as most are."""
    better = {"type": "string", "enum": ["A", "B", "tie"]}
    schema = {"type": "object", "properties": {"better": better}, "required": ["better"]}
    api = ApiSettings(base_url=f"{vllm_server.url}/v1", structured="vllm")
    engine = open_engine("api", "tiny", EngineSettings(api=api, api_key=vllm_server.key))
    for result in engine.generate([ask(i, schema=schema, max_new_tokens=32) for i in range(20)]):
        assert (json.loads(result.text)["better"] in ("A", "B", "tie"), result.finish_reason) == (True, "stop")


def test_scores_are_those_of_transformers(
    engine: Engine, tiny_checkpoint: Path, judge: Callable[..., ScoreRequest]
) -> None:
    requests = [judge(i, "There is a large red star at the top left."[: 5 + 4 * i]) for i in range(8)]
    requests += [judge(8, ""), judge(9, "red " * 600)]
    ours = {score.id: score for score in hf(tiny_checkpoint).generate(requests)}
    theirs = {score.id: score for score in engine.generate(requests)}
    assert {key for key, score in theirs.items() if score.error} == {"8", "9"}
    for key, score in theirs.items():
        assert score.token_logprobs == pytest.approx(ours[key].token_logprobs, abs=1e-4)


def test_bad_requests_fail_alone_and_a_wrong_key_at_once(
    engine: Engine, vllm_server: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = {result.id: result for result in engine.generate([ask(1), ask(2, "red " * 600), ask(3)])}
    assert {key for key, result in results.items() if result.error} == {"2"}
    monkeypatch.setattr(vllm_server, "key", "another")
    with pytest.raises(ModelError, match=r"refuses the key \(401\)"):
        list(connect(vllm_server).generate([ask(1)]))


def test_every_request_is_answered_by_a_server_that_dies_twice(
    vllm_server: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "MAX_WAIT_S", 4.0)
    requests = [ask(seed, max_new_tokens=32) for seed in range(150)]
    undisturbed = {result.id: result.text for result in connect(vllm_server).generate(requests)}
    engine = connect(vllm_server)
    engine._settings = engine._settings.model_copy(update={"retries": 100})  # type: ignore[attr-defined]
    texts: dict[str, str] = {}
    for result in engine.generate(requests):
        assert result.error is None
        assert result.id not in texts
        texts[result.id] = result.text
        if len(texts) in (30, 90):
            vllm_server.kill()
            threading.Timer(3.0, vllm_server.start).start()
    assert texts == undisturbed
    assert any("tried again" in note for note in engine.notes)


def test_what_the_checkpoint_says_of_sampling_is_overruled(
    vllm_server: Any, tiny_checkpoint: Path, tmp_path: Path, ask: Ask
) -> None:
    """`vllm serve` would take top_k = 1 from generation_config.json: six seeds, one caption."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    path = folder / "generation_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "top_k": 1, "repetition_penalty": 1.9, "min_p": 0.9}))
    requests = [ask(1, temperature=1.5, seed=seed, max_new_tokens=16) for seed in range(6)]
    requests = [replace(request, id=str(number)) for number, request in enumerate(requests)]
    greedy = ask(2, max_new_tokens=32)
    expected = {result.id: result.text for result in connect(vllm_server).generate([*requests, greedy])}
    server = type(vllm_server)(folder, tmp_path / "log", "auto")
    try:
        server.start()
        server.wait()
        found = {result.id: result.text for result in connect(server).generate([*requests, greedy])}
    finally:
        server.kill()
    assert len({found[str(number)] for number in range(6)}) > 1
    assert found == expected
