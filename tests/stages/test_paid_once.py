"""What a server was paid for is not asked for again, whatever the stage and however a run of it ended."""

import io
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from chat_server import Reply, Server, completion, serving
from forks import Forks
from vila2cli.errors import BudgetError
from vila2cli.run.workers import Worker
from vila2cli.settings.recipe import Recipe, load_recipe
from vila2cli.shards import TarWriter, open_layer, open_source
from vila2cli.shards.sample import Annotation
from vila2cli.stages.filter import filter_samples
from vila2cli.stages.recaption import estimate, recaption
from vila2cli.stages.specialize import Answering, relabel

NUM, IN_FLIGHT = 24, 4
BUDGET = 240
"""Tokens for ten answers of 20 read and 3 written, as the server counts them."""

Run = Callable[[Path, Path, str, int], object]
"""Runs a stage over data into a folder with the server at a URL, within a budget of tokens."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard of pictures that all differ, and a layer of recaptions on top of it."""
    folder = tmp_path_factory.mktemp("paid")
    with TarWriter(folder / "data" / "0.tar") as tar:
        for number in range(NUM):
            stream = io.BytesIO()
            Image.effect_noise((32, 32), 10 + number).convert("RGB").save(stream, "JPEG")
            text = f"picture {number} of a star"
            tar.write_sample(f"{number:02}", {"jpg": stream.getvalue(), "txt": text.encode()})
    layer = open_layer(folder / "r1", layer="recaption", source=open_source([str(folder / "data")]))
    with layer.shard(layer.source.shards[0]) as out:
        for sample in out.samples():
            text = f"There is a red star in picture {sample.key}."
            out.annotate(sample, Annotation(layer="recaption", kind="caption", text=text))
    layer.finish()
    return folder


def answer(body: dict[str, Any], number: int) -> Reply:
    """A caption, or where one is to be scored its log-probabilities."""
    if "prompt" in body:
        return 200, {"count": 3}
    scores = {"prompt_logprobs": [None, *({"5": {"logprob": -0.5}},) * 3]} if "prompt_logprobs" in body else {}
    return 200, completion("There is a red star.")[1] | scores  # type: ignore[operator]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as serve:
        yield serve(answer)


def num_paid(server: Server) -> int:
    return sum("messages" in body for body in server.bodies)


def sets(section: str, url: str, budget: int) -> list[str]:
    return [
        f"{section}.engine=api",
        f"{section}.max_reject_rate=1",
        f"api.base_url={url}",
        "api.model=tiny",
        f"api.max_in_flight={IN_FLIGHT}",
        f"api.max_tokens_total={budget}",
    ]


def recipe(section: str, url: str, budget: int, *more: str) -> Recipe:
    return load_recipe(None, [*sets(section, url, budget), *more])


def run_recaption(data: Path, out: Path, url: str, budget: int) -> object:
    settings = recipe("recaption", url, budget, "recaption.max_new_tokens=8", "recaption.retry_temperatures=[]")
    return recaption(settings, shards=[str(data / "data")], model="tiny", out=out, round=1)


def run_rewrite(data: Path, out: Path, url: str, budget: int) -> object:
    settings = recipe("rewrite", url, budget, "rewrite.max_new_tokens=8", "rewrite.retry_temperatures=[]")
    return recaption(settings, shards=[str(data / "r1")], model="tiny", out=out, round=1, rewrite=True)


def run_relabel(data: Path, out: Path, url: str, budget: int) -> object:
    own = {"data": data / "data", "prompts": "ocr-v1", "questions": "ocr", "max_new_tokens": 8}
    ocr = [f"specialists.ocr.{name}={value}" for name, value in own.items()]
    settings = recipe("recaption", url, budget, *ocr)
    return relabel(settings, [Answering("ocr", "tiny", out)], shards=[str(data / "data")])


def run_filter(data: Path, out: Path, url: str, budget: int) -> object:
    own = ['filter.scores=["perplexity"]', "filter.rank_by=perplexity", "filter.overlap=none"]
    settings = recipe("filter", url, budget, *own)
    return filter_samples(settings, shards=[str(data / "data")], out=out, model="tiny")


STAGES: dict[str, Run] = {
    "recaption": run_recaption,
    "rewrite": run_rewrite,
    "relabel": run_relabel,
    "filter": run_filter,
}


def annotations(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.tar.gz"))}


@pytest.mark.parametrize("stage", STAGES)
def test_a_budget_below_a_shard_is_spent_once(
    stage: str, data: Path, tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = STAGES[stage], tmp_path / "out"
    for _ in range(2):
        before = num_paid(server)
        with pytest.raises(BudgetError):
            run(data, out, server.url, BUDGET)
        assert before < num_paid(server) < NUM
        assert not list(out.rglob("*.tar.gz"))
    run(data, out, server.url, BUDGET)
    assert num_paid(server) == NUM
    assert "answers of earlier runs are kept" in capsys.readouterr().err
    assert not list(out.rglob("answers*.jsonl")), "nobody needs them again"
    run(data, out, server.url, BUDGET)
    assert num_paid(server) == NUM
    run(data, tmp_path / "at once", server.url, 0)
    assert annotations(out) == annotations(tmp_path / "at once") != {}


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_an_ended_run_loses_only_what_was_in_flight(
    forks: Forks, data: Path, tmp_path: Path, end: signal.Signals
) -> None:
    def dawdle(body: dict[str, Any], number: int) -> Reply:
        time.sleep(0.2)
        return answer(body, number)

    with serving() as serve:
        server = serve(dawdle)
        settings = [f"--set={text}" for text in sets("recaption", server.url, 0)]
        options = ["--model", "tiny", "--shards", str(data / "data"), "--out", str(tmp_path / "out")]
        command = ["-m", "vila2cli", "recaption", *options, *settings]
        process = forks.start(command)
        while num_paid(server) < NUM // 2 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(end)
        _, errors = process.communicate()
        assert process.returncode == (75 if end == signal.SIGTERM else -end), errors
        assert NUM // 2 <= num_paid(server) < NUM
        assert not list((tmp_path / "out").glob("*.tar.gz"))
        assert forks.start(command).wait() == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["out"] == NUM
    assert NUM <= num_paid(server) <= NUM + IN_FLIGHT


def test_a_worker_uses_what_another_paid_for(data: Path, tmp_path: Path) -> None:
    """One of two workers stops, the server moves, and a lone process goes on."""
    source, out = [str(data / "data")], tmp_path / "out"
    with serving() as serve:
        before, after = serve(answer), serve(answer)
        limited = recipe("recaption", before.url, BUDGET)
        with pytest.raises(BudgetError):
            recaption(limited, shards=source, model="tiny", out=out, round=1, worker=Worker(0, 2))
        assert list(out.glob("answers.0of2.jsonl"))
        recaption(recipe("recaption", after.url, 0), shards=source, model="tiny", out=out, round=1)
    assert 0 < num_paid(before) < NUM
    assert num_paid(before) + num_paid(after) == NUM
    assert not list(out.glob("answers*"))


def test_an_estimate_asks_a_server_for_what_it_counts_and_no_more(data: Path, server: Server) -> None:
    settings = recipe("recaption", server.url, 0, "recaption.retry_temperatures=[]")
    found = estimate(settings, shards=[str(data / "data")], model="tiny", round=1)
    assert num_paid(server) == found.num_requests == found.tried.num_images == NUM


def test_a_limit_pays_for_the_first_samples_alone(data: Path, tmp_path: Path, server: Server) -> None:
    settings = recipe("rewrite", server.url, 0, "rewrite.retry_temperatures=[]")
    given: dict[str, Any] = {"shards": [str(data / "r1")], "model": "tiny", "out": tmp_path / "rewrite"}
    summary = recaption(settings, **given, round=1, rewrite=True, limit=5)
    assert (num_paid(server), summary.num_in) == (5, 5)
    ocr = [
        "specialists.ocr.prompts=ocr-v1",
        "specialists.ocr.questions=ocr",
        "specialists.ocr.max_new_tokens=8",
    ]
    settings = recipe("recaption", server.url, 0, f"specialists.ocr.data={data}/data", *ocr)
    answering = [Answering("ocr", "tiny", tmp_path / "ocr")]
    (answers,) = relabel(settings, answering, shards=[str(data / "data")], limit=6)
    assert (num_paid(server), answers.num_in, answers.num_asked) == (11, 6, 6)
