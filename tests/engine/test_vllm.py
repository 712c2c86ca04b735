import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tiny_vlm import picture
from vila2cli.engine import Engine, EngineSettings, Request, Result, ScoreRequest, choose_engine, open_engine
from vila2cli.engine.vllm import VllmEngine
from vila2cli.errors import Interrupted, ModelError, UnaskableError
from vila2cli.judging.protocols import open_protocol
from vila2cli.run.stopping import interruptible
from vila2cli.settings import AskedSettings
from vila2cli.settings.recipe import load_recipe

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore"),
]
Ask = Callable[..., Request]
Judge = Callable[..., ScoreRequest]
SETTINGS = EngineSettings(dtype="float32", batch_size=16)


@pytest.fixture(scope="module")
def engine(random_vlm: Path) -> Engine:
    torch.set_num_threads(1)
    return open_engine("vllm", random_vlm, SETTINGS)


def by_id(results: Iterator[Result]) -> dict[str, Result]:
    return {result.id: result for result in results}


def test_greedy_captions_are_those_of_transformers(engine: Engine, random_vlm: Path, ask: Ask) -> None:
    requests = [ask(seed, max_new_tokens=48, group=f"g{seed // 20}") for seed in range(64)]
    ours = by_id(open_engine("hf", random_vlm, SETTINGS).generate(requests))
    theirs = by_id(engine.generate(requests))
    assert set(theirs) == set(ours)
    for key, result in theirs.items():
        assert (result.text, result.num_tokens) == (ours[key].text, ours[key].num_tokens)
        assert result.finish_reason == ours[key].finish_reason
        assert result.logprob_mean == pytest.approx(ours[key].logprob_mean, abs=1e-4)
    assert engine.model_sha256 == open_engine("hf", random_vlm, SETTINGS).model_sha256


def test_scores_are_those_of_transformers(engine: Engine, random_vlm: Path, judge: Judge) -> None:
    words = ("red", "star", "at the top left", "There is a large", "nothing like it")
    requests = [judge(i, " ".join(words[: 1 + i % 5]) + "!" * (i % 3), group=f"g{i // 10}") for i in range(40)]
    odd = [judge(90, ""), judge(91, "red " * 600), judge(92, "no picture", images=())]
    ours = {score.id: score for score in open_engine("hf", random_vlm, SETTINGS).generate(requests + odd)}
    theirs = {score.id: score for score in engine.generate(requests + odd)}
    assert set(theirs) == set(ours)
    for key, score in theirs.items():
        assert score.error == ours[key].error
        assert score.token_logprobs == pytest.approx(ours[key].token_logprobs, abs=1e-4)
    assert {key for key, score in theirs.items() if score.error} == {"90", "91"}


def test_what_follows_from_a_result_is_asked_too(engine: Engine, ask: Ask, ladder: Any) -> None:
    stream = ladder([ask(seed, max_new_tokens=4) for seed in range(5)])
    seen = []
    for result in engine.generate(stream):
        seen.append(int(result.id))
        if seen[-1] < 3:
            stream.push(ask(seen[-1] + 100, max_new_tokens=4))
    assert sorted(seen) == [0, 1, 2, 3, 4, 100, 101, 102]


def test_one_bad_request_does_not_harm_the_others(engine: Engine, ask: Ask) -> None:
    odd = [
        ask(1),
        ask(2, "red " * 600),
        ask(3, "<image> and <image>"),
        ask(4, images=tuple(Image.new("RGB", (64, 64)) for _ in range(40))),
        ask(5, "Hello", images=()),
        ask(6, "<image> or <image>", images=(Image.new("RGB", (64, 64)), Image.new("RGB", (9, 80)))),
        ask(7, temperature=1.0, top_p=0.0),
        ask(8),
    ]
    results = by_id(engine.generate(odd))
    assert set(results) == {request.id for request in odd}
    assert {key for key, result in results.items() if result.error} == {"2", "3", "4", "7"}
    assert results["8"].num_tokens > 0
    assert "with 40 images does not fit the context of 512; take fewer shots" in str(results["4"].error)


def test_as_many_images_are_taken_as_the_context_holds(engine: Engine, random_vlm: Path, ask: Ask) -> None:
    """Four shots of pairs and the pair that is asked about are ten; twenty fit."""
    requests = [
        ask(num, "<image>" * num + "What is different?", images=tuple(picture(i) for i in range(num)))
        for num in (2, 8, 9, 10, 20)
    ]
    ours = by_id(open_engine("hf", random_vlm, SETTINGS).generate(requests))
    theirs = by_id(engine.generate(requests))
    assert not any(result.error for result in theirs.values())
    assert {key: one.text for key, one in theirs.items()} == {key: one.text for key, one in ours.items()}


def test_answers_held_to_a_schema_are_json_without_white_space(engine: Engine, ask: Ask) -> None:
    """A model with random weights writes spaces and line ends for good where it may."""
    better = {"type": "string", "enum": ["A", "B", "tie"]}
    marks = {"type": "array", "items": {"type": "integer", "enum": [1, 2, 3]}, "minItems": 3, "maxItems": 3}
    shape = {"type": "object", "required": ["better", "marks"], "additionalProperties": False}
    schema = {**shape, "properties": {"better": better, "marks": marks}}
    requests = [ask(i, schema=schema, max_new_tokens=64, temperature=float(i % 2)) for i in range(20)]
    for result in engine.generate(requests):
        value = json.loads(result.text)
        assert result.text == json.dumps(value, separators=(",", ":"))
        assert (value["better"] in ("A", "B", "tie"), len(value["marks"])) == (True, 3)
        assert result.finish_reason == "stop"


@pytest.mark.parametrize("name", ["pair-json", "rubric", "sentences"])
def test_the_judges_own_schemas_are_understood(engine: Engine, ask: Ask, name: str) -> None:
    captions = {"alt-text": "A red star. A ring.", "recaption": "A blue square. A bar. It is small."}
    sets = {"pair-json": ["judge.prompt=judge-pair-json-v1"]}.get(name, [f"judge.protocol={name}"])
    blank = ask(0, max_new_tokens=160)
    asked = open_protocol(load_recipe(None, sets)).requests(blank, captions, [("recaption", "alt-text")])
    assert all(request.schema for request in asked)
    requests = [
        ask(i, request.messages[0].text, schema=request.schema, max_new_tokens=160)
        for i, request in enumerate(asked)
    ]
    for result in engine.generate(requests):
        assert isinstance(json.loads(result.text), dict), result


def test_sampling_is_seeded_per_request(engine: Engine, ask: Ask) -> None:
    requests = [ask(seed, temperature=1.0) for seed in range(8)]
    together = by_id(engine.generate(requests))
    (alone,) = engine.generate(requests[:1])
    (other,) = engine.generate([ask(0, temperature=1.0, seed=77)])
    assert alone.text == together["0"].text
    assert other.text != alone.text


def test_the_window_is_bounded_and_stopping_early_is_clean(engine: Engine, ask: Ask) -> None:
    num_read = 0

    def stream() -> Iterator[Request]:
        nonlocal num_read
        for seed in range(200):
            num_read += 1
            yield ask(seed, max_new_tokens=8)

    results = engine.generate(stream())
    next(results)
    assert num_read <= 2 * SETTINGS.batch_size + 1
    results.close()  # type: ignore[attr-defined]
    assert len(list(engine.generate([ask(1), ask(2)]))) == 2


def test_auto_takes_vllm_where_it_knows_the_model(random_vlm: Path, tmp_path: Path) -> None:
    assert choose_engine("auto", random_vlm).kind == "vllm"
    (tmp_path / "config.json").write_text('{"architectures": ["NeverHeardOfIt"]}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    choice = choose_engine("auto", tmp_path)
    assert choice.kind == "hf"
    assert "NeverHeardOfIt" in choice.reason
    with pytest.raises(ModelError, match="vLLM does not know NeverHeardOfIt"):
        choose_engine("vllm", tmp_path)


def test_a_damaged_checkpoint_is_one_line(random_vlm: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(
        random_vlm, tmp_path / "bare", ignore=shutil.ignore_patterns("*process*", "token*")
    )
    with pytest.raises(ModelError, match=r"vLLM cannot load .*may be able to") as caught:
        open_engine("vllm", folder)
    assert "\n" not in str(caught.value)
    (folder / "config.json").write_text("{")
    assert "cannot read" in choose_engine("auto", folder).reason


def test_what_no_engine_can_be_asked_names_no_other_engine(random_vlm: Path) -> None:
    asked = AskedSettings(chat_template={"enable_thinkin": False})
    for kind in ("vllm", "auto"):
        with pytest.raises(UnaskableError) as caught:
            open_engine(kind, random_vlm, replace(SETTINGS, asked=asked))
        assert str(caught.value) == "the model's chat template has no argument 'enable_thinkin' (chat_template)"


@pytest.mark.slow
def test_a_process_that_dies_or_is_waited_for_ends_the_stage(random_vlm: Path, ask: Ask) -> None:
    class Apart(VllmEngine):
        """With an engine core of its own, as on a GPU."""

        _has_own_process = True  # type: ignore[assignment]

    with interruptible() as stop:
        engine = Apart("m", random_vlm, SETTINGS, stop)
        (core,) = engine._engine.engine_core.resources.engine_manager.processes
        results = engine.generate(ask(seed, max_new_tokens=400) for seed in range(200))
        assert next(results).error is None
        os.kill(core.pid, signal.SIGSTOP)
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(Interrupted):
            list(results)
        stop.reason = None
        results = engine.generate(ask(seed) for seed in range(1000, 1100))
        threading.Timer(1.0, os.kill, (core.pid, signal.SIGKILL)).start()
        with pytest.raises(ModelError, match="died"):
            list(results)
    for thread in threading.enumerate():
        if thread.name == "MPClientEngineMonitor":
            thread.join()
    client = engine._engine.engine_core
    assert not client.input_socket.closed, "vLLM closed it from its own thread, maybe while this one sent"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="GPU kernels take other head sizes")
def test_auto_falls_back_when_vllm_cannot_load(small_head_vlm: Path) -> None:
    script = (
        "import sys\nfrom vila2cli.engine import open_engine\nfrom vila2cli.errors import ModelError\n"
        "try:\n    print(open_engine(sys.argv[1], sys.argv[2]).notes[0])\n"
        "except ModelError as error:\n    print(error)"
    )
    for kind, expected in [("auto", "engine: hf (vLLM cannot load"), ("vllm", "may be able to")]:
        command = [sys.executable, "-c", script, kind, str(small_head_vlm)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert expected in done.stdout
        assert "head_dim=8" in done.stdout
        assert len(done.stdout.strip().splitlines()) == 1
