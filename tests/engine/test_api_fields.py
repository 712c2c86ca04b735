"""Fields of requests that servers refuse, each in words of its own, and those that they pass over."""

from collections.abc import Callable
from typing import Any

import pytest

import chat_server
from chat_server import Reply, Server, completion, problem
from vila2cli.engine import Engine, Request, ScoreRequest
from vila2cli.errors import ModelError
from vila2cli.shards.sample import Turn

Ask = Callable[..., Request]
NEUTRAL = ("top_k", "min_p", "repetition_penalty")
pytestmark = pytest.mark.usefixtures("short_waits")


def connect(url: str, **settings: Any) -> Engine:
    return chat_server.connect(url, **{"retries": 0, "max_in_flight": 1, **settings})


def strict(status: int, words: Callable[[list[str]], Any], *unknown: str) -> Callable[..., Reply]:
    """A server that refuses fields, naming them."""

    def reply(body: dict[str, Any], number: int) -> Reply:
        refused = sorted(set(unknown) & set(body))
        return (status, words(refused)) if refused else completion()

    return reply


def fastapi(refused: list[str]) -> Any:
    return {"detail": f"Unexpected fields in the request: {set(refused)}"}


def pydantic(refused: list[str]) -> Any:
    return {"detail": [{"type": "extra_forbidden", "loc": ["body", name], "input": 1} for name in refused]}


def google(refused: list[str]) -> Any:
    return [{"error": {"code": 400, "message": f'Unknown name "{refused[0]}": Cannot find field.'}}]


def plain(refused: list[str]) -> Any:
    return {"object": "error", "message": f"Unrecognized request argument supplied: {refused[0]}", "code": 4}


def test_sampling_is_said_to_the_last_setting(serve: Callable[..., Server], ask: Ask) -> None:
    server = serve(lambda body, number: completion())
    list(connect(server.url).generate([ask(1), ask(2, temperature=0.7)]))
    for body in server.bodies:
        assert [body[name] for name in NEUTRAL] == [-1, 0.0, 1.0]
        assert body["max_tokens"] == body["max_completion_tokens"]  # Ollama heeds the old name alone


@pytest.mark.parametrize("words", [fastapi, pydantic, google, plain])
@pytest.mark.parametrize("status", [400, 422])
def test_a_server_is_asked_without_what_it_does_not_know(
    serve: Callable[..., Server], ask: Ask, status: int, words: Callable[[list[str]], Any]
) -> None:
    server = serve(strict(status, words, *NEUTRAL, "logprobs", "max_completion_tokens", "seed"))
    engine = connect(server.url)
    requests = [ask(number, temperature=0.7) for number in range(4)]
    assert [result.error for result in engine.generate(requests)] == [None] * 4
    asked = [body for body in server.bodies if "max_completion_tokens" not in body and "logprobs" not in body]
    assert len(asked) >= 4
    assert {body["max_tokens"] for body in asked} == {requests[0].max_new_tokens}
    notes = [note.partition(" takes no ")[2] for note in engine.notes[1:]]
    assert notes == [
        "top_k, min_p, repetition_penalty; where it has defaults for them, those hold",
        "logprobs; answers carry no log-probabilities",
        "seed; what is drawn cannot be drawn again",
    ]


def test_the_limit_of_an_answer_stays_where_a_server_wants_it_under_one_name(
    serve: Callable[..., Server], ask: Ask
) -> None:
    message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    server = serve(lambda body, number: problem(400, message) if "max_tokens" in body else completion())
    engine = connect(server.url)
    assert [result.error for result in engine.generate([ask(1), ask(2)])] == [None] * 2
    assert all("max_completion_tokens" in body for body in server.bodies)
    assert (len(server.bodies), engine.notes[1:]) == (3, [])


def test_a_limit_that_one_prompt_is_too_long_for_is_kept_for_all(
    serve: Callable[..., Server], ask: Ask
) -> None:
    """A server that heeds the old name alone would write without end."""
    message = "max_tokens is too large: the prompt leaves room for 7 tokens"
    server = serve(lambda body, number: problem(400, message) if number == 2 else completion())
    first, second, third = connect(server.url).generate([ask(1), ask(2), ask(3)])
    assert (first.error, third.error) == (None, None)
    assert "room for 7 tokens" in (second.error or "")
    assert ["max_tokens" in body for body in server.bodies] == [True] * 3


def test_a_gateway_that_hides_that_it_takes_one_limit_is_sent_one(
    serve: Callable[..., Server], ask: Ask
) -> None:
    hidden = {"error": {"message": "the model group failed: Error code: 400"}}
    server = serve(lambda body, number: (400, hidden) if "max_tokens" in body else completion())
    assert [result.error for result in connect(server.url).generate([ask(1), ask(2)])] == [None] * 2
    assert ["max_completion_tokens" in body for body in server.bodies] == [True] * 4


def test_a_refusal_that_repeats_the_request_teaches_nothing(serve: Callable[..., Server], ask: Ask) -> None:
    def reply(body: dict[str, Any], number: int) -> Reply:
        return (400, {"detail": {"bad picture in": body}}) if number <= 2 else completion()

    server = serve(reply)
    engine = connect(server.url)
    first, second = engine.generate([ask(1), ask(2)])
    assert "bad picture" in (first.error or "")
    assert second.error is None
    assert all("max_completion_tokens" in body or "max_tokens" in body for body in server.bodies)
    assert {*NEUTRAL, "logprobs"} <= set(server.bodies[-1])
    assert engine.notes[1:] == []


def test_what_was_set_is_not_left_out(serve: Callable[..., Server], ask: Ask) -> None:
    server = serve(strict(422, fastapi, "temperature"))
    (result,) = connect(server.url).generate([ask(1)])
    assert "Unexpected fields in the request: {'temperature'}" in (result.error or "")
    assert all(body["temperature"] == 0 for body in server.bodies)


def test_a_gateway_that_hides_what_is_refused_is_asked_for_the_protocol_alone(
    serve: Callable[..., Server], ask: Ask
) -> None:
    def hidden(refused: list[str]) -> Any:
        return {"error": {"message": "the model group failed: Error code: 422", "code": "422"}}

    server = serve(strict(422, hidden, *NEUTRAL))
    assert [result.error for result in connect(server.url).generate([ask(1), ask(2)])] == [None] * 2
    assert len(server.bodies) == 3

    answered = serve(lambda body, number: completion() if number == 1 else (400, {"detail": "bad picture"}))
    first, second = connect(answered.url).generate([ask(1), ask(2)])
    assert first.error is None
    assert "bad picture" in (second.error or "")
    assert len(answered.bodies) == 2


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, {"detail": "Not Found"}, "counts no tokens .*score with a vLLM server"),
        (405, {"detail": "Method Not Allowed"}, "counts no tokens .*score with a vLLM server"),
        (404, {"error": {"message": "The model m-1 does not exist."}}, "does not serve m-1"),
    ],
)
def test_a_server_without_tokens_is_told_from_one_without_the_model(
    serve: Callable[..., Server], status: int, body: Any, said: str
) -> None:
    engine = connect(serve(lambda asked, number: (status, body)).url, model="m-1")
    with pytest.raises(ModelError, match=said):
        list(engine.generate([ScoreRequest(id="1", messages=(Turn("user", "Describe."),), text="A dog.")]))
