"""An engine around an engine that never asks twice for what was paid for."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chat_server import Reply, Server, completion, connect, problem, serving
from vila2cli.ask.kept_answers import Answers, Kept
from vila2cli.engine import AnyRequest, Request, Result, ScoreRequest
from vila2cli.run.workers import Worker
from vila2cli.shards.sample import Turn


def echo(body: dict[str, Any], number: int) -> Reply:
    """Says what it was asked, refuses what is "odd", and withholds what is "bad"."""
    if "prompt" in body:
        return 200, {"count": 2}
    text = str(body["messages"][0]["content"])
    if "odd" in text:
        return problem(400, "no")
    if "bad" in text:
        return 200, completion("", finish="content_filter")[1]
    scores = {"prompt_logprobs": [None, {"1": {"logprob": -0.1}}, {"2": {"logprob": -1 / 3}}]}
    return 200, completion(text)[1] | (scores if "prompt_logprobs" in body else {})  # type: ignore[operator]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as serve:
        yield serve(echo)


@pytest.fixture
def ask(server: Server, tmp_path: Path) -> Callable[..., dict[str, Result]]:
    """Results by their requests' ids, each of which comes once."""

    def ask(*requests: AnyRequest, worker: Worker | None = None, **how: Any) -> dict[str, Result]:
        with Answers(tmp_path / "answers.jsonl", worker) as answers:
            engine = connect(server.url, retries=0, max_in_flight=1)
            results = list(Kept(engine, answers, how).generate(requests))
        assert sorted(result.id for result in results) == sorted(request.id for request in requests)
        return {result.id: result for result in results}

    return ask


def text(name: str, words: str = "", **settings: Any) -> Request:
    turns = (Turn("user", words or name),)
    return Request(id=name, messages=turns, **{"max_new_tokens": 8, **settings})


def score(name: str, words: str = "a star") -> ScoreRequest:
    return ScoreRequest(id=name, messages=(Turn("user", "look"),), text=words)


def num_asked(server: Server) -> int:
    return sum("messages" in body for body in server.bodies)


def test_texts_and_scores_are_kept_in_one_stream(ask: Callable[..., dict[str, Result]], server: Server) -> None:
    requests = [text("a"), score("b"), text("c"), score("d", "a ring")]
    first = ask(*requests)
    assert first["b"].token_logprobs == (-0.1, -1 / 3)
    assert first["a"].text == "a"
    assert num_asked(server) == 4
    assert ask(*requests) == first
    assert num_asked(server) == 4


def test_kept_answers_come_between_others_however_many_there_are(
    ask: Callable[..., dict[str, Result]], server: Server
) -> None:
    ask(*(text(str(number)) for number in range(300) if number % 100))
    results = ask(*(text(str(number)) for number in range(301)))
    assert {name: result.text for name, result in results.items()} == {str(n): str(n) for n in range(301)}
    assert num_asked(server) == 301


def test_kept_answers_are_handed_on_before_all_requests_are_read(
    server: Server, ask: Callable[..., dict[str, Result]], tmp_path: Path
) -> None:
    requests = [text(str(number)) for number in range(500)]
    ask(*requests)
    read: list[str] = []

    def stream() -> Iterator[AnyRequest]:
        for request in requests:
            read.append(request.id)
            yield request

    with Answers(tmp_path / "answers.jsonl") as answers:
        results = Kept(connect(server.url), answers, {}).generate(stream())
        next(results)
        assert len(read) < 100
        assert len(list(results)) == 499
    assert num_asked(server) == 500


def test_what_decides_an_answer_is_in_its_key(ask: Callable[..., dict[str, Result]], server: Server) -> None:
    ways: list[dict[str, Any]] = [
        {},
        {"words": "other"},
        {"max_new_tokens": 9},
        {"temperature": 0.5},
        {"temperature": 0.5, "seed": 1},
        {"temperature": 0.5, "top_p": 0.5},
        {"image_sha256s": ("0",)},
        {"schema": {"type": "object"}},
    ]
    for number, way in enumerate(ways, start=1):
        ask(text("a", **way))
        assert num_asked(server) == number, way
    ask(text("a"), max_pixels=5)
    assert num_asked(server) == len(ways) + 1
    ask(text("a", seed=7), text("b", words="a"))  # greedy, so that the seed decides nothing
    assert num_asked(server) == len(ways) + 1


def test_what_was_not_answered_is_asked_again(ask: Callable[..., dict[str, Result]], server: Server) -> None:
    first = ask(text("odd"), text("bad"))
    assert {name: result.failure for name, result in first.items()} == {"odd": "request", "bad": "filtered"}
    assert ask(text("odd"), text("bad")) == first
    said = [str(body["messages"][0]["content"]) for body in server.bodies]
    # Before any answer, what is refused may be a field: those beyond the protocol, then one of two limits.
    assert (said.count("odd"), said.count("bad")) == (2 * 3, 1)


def test_equal_requests_are_asked_once(ask: Callable[..., dict[str, Result]], server: Server) -> None:
    results = ask(*(text(str(number), "same") for number in range(20)))
    assert {result.text for result in results.values()} == {"same"}
    assert num_asked(server) == 1


def test_a_line_that_a_crash_cut_off_is_asked_again(
    ask: Callable[..., dict[str, Result]], server: Server, tmp_path: Path
) -> None:
    ask(text("a"))
    path = tmp_path / "answers.jsonl"
    path.write_bytes(path.read_bytes() + path.read_bytes()[:50])
    ask(text("a"), text("b"))
    assert num_asked(server) == 2
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 2


def test_workers_append_to_files_of_their_own(
    ask: Callable[..., dict[str, Result]], server: Server, tmp_path: Path
) -> None:
    ask(text("a"), worker=Worker(0, 2))
    ask(text("a"), text("b"), worker=Worker(1, 2))
    assert num_asked(server) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"answers.0of2.jsonl", "answers.1of2.jsonl"}
    with Answers(tmp_path / "answers.jsonl") as answers:
        assert len(answers) == 2
        answers.remove()
    assert not list(tmp_path.iterdir())


def test_answers_of_earlier_versions_can_be_read(
    ask: Callable[..., dict[str, Result]], server: Server, tmp_path: Path
) -> None:
    """Their keys are others, so that they are asked for again, and stay."""
    line = (
        '{"id": "0123", "text": "yes", "problem": ""}\n{"id": "4567", "text": "", "problem": "refused: no"}\n'
    )
    (tmp_path / "answers.jsonl").write_text(line)
    ask(text("a"))
    assert num_asked(server) == 1
    with Answers(tmp_path / "answers.jsonl") as answers:
        yes, no = answers.find("0123"), answers.find("4567")
    assert yes is not None
    assert (yes.text, yes.failure) == ("yes", "")
    assert no is not None
    assert (no.error, no.failure) == ("no", "filtered")
