"""Servers that lie, dawdle, break off, send elsewhere and repeat the key: one failed answer, and no leak."""

import gzip
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

import pytest

import chat_server
from chat_server import Reply, Server, completion, problem
from raw_server import Raw, head, json_answer, serving_raw
from vila2cli.engine import Engine, EngineSettings, Request, ScoreRequest, open_engine
from vila2cli.errors import ModelError, Vila2Error
from vila2cli.settings import ApiSettings

KEY = "sk-test/+0123456789abcdef"
Ask = Callable[..., Request]
pytestmark = pytest.mark.usefixtures("short_waits")


@pytest.fixture
def serve_raw() -> Iterator[Callable[..., Raw]]:
    with serving_raw() as start:
        yield start


def connect(url: str, **settings: Any) -> Engine:
    return chat_server.connect(url, key=KEY, **{"retries": 1, "max_in_flight": 1, **settings})


def good() -> bytes:
    return json.dumps(completion()[1]).encode()


def changed(**fields: Any) -> dict[str, Any]:
    """A good completion with other fields; those of its first choice are named with `choice_` before."""
    body: Any = completion()[1]
    own = {name.removeprefix("choice_"): value for name, value in fields.items() if name.startswith("choice_")}
    rest = {name: value for name, value in fields.items() if not name.startswith("choice_")}
    return {**body, "choices": [{**body["choices"][0], **own}], **rest}


# What an answer says


@pytest.mark.parametrize(
    "body",
    [
        changed(usage={}),
        changed(usage={"prompt_tokens": -5, "completion_tokens": 3}),
        changed(usage={"prompt_tokens": 20, "completion_tokens": -3}),
        changed(usage={"prompt_tokens": None, "completion_tokens": 3}),
        changed(usage={"prompt_tokens": "20", "completion_tokens": 3}),
        changed(usage={"prompt_tokens": 10**400, "completion_tokens": 3}),
        changed(usage={"prompt_tokens": True, "completion_tokens": 3}),
        changed(usage=[1, 2]),
        changed(usage=7),
        changed(choice_logprobs={"content": [{"token": "a", "logprob": None}]}),
        changed(choice_logprobs={"content": [{"token": "a"}]}),
        changed(choice_logprobs={"content": [None]}),
        changed(choice_logprobs={"content": "a"}),
        changed(choice_logprobs={"content": [{"token": "a", "logprob": "-1"}]}),
        changed(choice_logprobs={"content": [{"token": "a", "logprob": -(10**400)}]}),
        changed(choice_logprobs=7),
        changed(choice_message={"content": 7}),
        changed(choice_message={"content": {"text": {}}}),
        changed(choice_message=[]),
        changed(choice_finish_reason=["stop"]),
        changed(choice_finish_reason={"a": 1}),
        changed(choices={"0": 1}),
        changed(choices=[7]),
        changed(choices=[[]]),
    ],
)
def test_an_answer_that_cannot_be_is_one_failed_answer(
    serve: Callable[..., Server], ask: Ask, body: dict[str, Any]
) -> None:
    server = serve(lambda _, number: (200, body) if number == 2 else completion(num_read=1000, num_written=100))
    engine = connect(server.url, dollars_per_million_read=2.0, dollars_per_million_written=10.0)
    results = list(engine.generate([ask(1), ask(2), ask(3)]))
    assert [result.error is None for result in results] == [True, False, True]
    assert results[1].failure in ("unanswered", "filtered")
    assert len(server.bodies) == 3
    assert 2 * 0.003 <= engine.dollars < 2 * 0.003 + 0.0001


def test_what_an_answer_costs_counts_at_its_most_where_nobody_says(
    serve: Callable[..., Server], ask: Ask
) -> None:
    bad = changed(usage={"prompt_tokens": -(10**9), "completion_tokens": -(10**9)})
    server = serve(lambda _, number: (200, bad) if number == 2 else completion(num_read=1000, num_written=10))
    engine = connect(server.url, max_tokens_total=2100, retries=0)
    results = engine.generate(ask(number, max_new_tokens=50) for number in range(9))
    with pytest.raises(Vila2Error, match="no more fits"):
        list(results)
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, ""), ([{"type": "text", "text": "a red "}, {"type": "text", "text": "star"}], "a red star")],
)
def test_text_in_parts_is_text(serve: Callable[..., Server], ask: Ask, content: object, text: str) -> None:
    server = serve(lambda _, number: (200, changed(choice_message={"content": content}, usage=None)))
    (result,) = connect(server.url).generate([ask(1)])
    assert (result.text, result.error, result.num_tokens) == (text, None, 0)


@pytest.mark.parametrize(
    "found",
    [[None], [{}], [{"5": None}], [{"5": {"logprob": None}}], 7, "abc", [7, 8, 9], {"a": 1}],
)
def test_scores_that_cannot_be_fail_alone(
    serve: Callable[..., Server], judge: Callable[..., ScoreRequest], found: object
) -> None:
    ours = [None, *({"5": {"logprob": -0.5}},) * 3]

    def reply(body: dict[str, Any], number: int) -> Reply:
        if "prompt" in body:
            return 200, {"count": 3}
        return 200, {**completion()[1], "prompt_logprobs": found if number == 2 else ours}  # type: ignore[dict-item]

    first, second = connect(serve(reply).url).generate([judge(1, "a red star"), judge(2, "a red star")])
    assert first.error is not None
    assert second.token_logprobs == (-0.5,) * 3


@pytest.mark.parametrize("count", [None, -1, "3", [], {"count": "x"}, {}])
def test_a_count_of_tokens_that_cannot_be_fails_alone(
    serve: Callable[..., Server], judge: Callable[..., ScoreRequest], count: object
) -> None:
    body = count if isinstance(count, dict) else {"count": count}
    server = serve(lambda asked, number: (200, body))
    (score,) = connect(server.url).generate([judge(1, "a red star")])
    assert score.error is not None
    assert score.token_logprobs == ()


# How an answer comes


def drip(file: IO[bytes], number: int) -> None:
    """One byte at a time, each well within any gap, and never the last."""
    file.write(head(Content_Type="application/json", Content_Length=10**6))
    for letter in good()[:-1] + b" " * 400:
        file.write(bytes([letter]))
        file.flush()
        time.sleep(0.02)


def half(file: IO[bytes], number: int) -> None:
    file.write(head(Content_Type="application/json", Content_Length=len(good())) + good()[: len(good()) // 2])


def no_gzip(file: IO[bytes], number: int) -> None:
    body = b"\x1f\x8b" + bytes(range(200))
    file.write(json_answer(body, Content_Encoding="gzip"))


def half_gzip(file: IO[bytes], number: int) -> None:
    body = gzip.compress(good())
    file.write(json_answer(body[: len(body) // 2], Content_Encoding="gzip"))


def nothing(file: IO[bytes], number: int) -> None:
    """The connection is closed without a word."""


def no_http(file: IO[bytes], number: int) -> None:
    file.write(b"\x00\xff" * 500)


def deep(file: IO[bytes], number: int) -> None:
    file.write(json_answer(b"[" * 200_000))


def half_character(file: IO[bytes], number: int) -> None:
    file.write(json_answer(b'{"choices": "\xff\xfe"}'))


@pytest.mark.parametrize("write", [drip, half, no_gzip, half_gzip, nothing, no_http, deep, half_character])
def test_half_an_answer_is_none(serve_raw: Callable[..., Raw], ask: Ask, write: Callable[..., None]) -> None:
    server = serve_raw(
        lambda file, number: write(file, number) if number == 2 else file.write(json_answer(good()))
    )
    results = list(connect(server.url, timeout_s=1.0).generate([ask(1), ask(2)]))
    assert [(result.text, result.error) for result in results] == [("a red star", None)] * 2  # the second try
    assert len(server.heads) == 3
    server = serve_raw(write)
    with pytest.raises(ModelError, match=r"gave no answer in 1 tries") as caught:
        list(connect(server.url, timeout_s=1.0, retries=0).generate([ask(1)]))
    assert "\n" not in str(caught.value)


def test_the_time_of_a_whole_answer_is_bounded(serve_raw: Callable[..., Raw], ask: Ask) -> None:
    server = serve_raw(drip)
    with pytest.raises(ModelError, match=r"no whole answer in 0\.3 s \(timeout_s\)"):
        list(connect(server.url, timeout_s=0.3, retries=0).generate([ask(1)]))


@pytest.mark.parametrize(
    ("asked", "note"),
    [
        ("0.01", r"asks to wait 0 s \(Retry-After\)$"),
        ("86400", r"asks to wait 86,400 s \(Retry-After\); tried again after 0.05 s all the same"),
        ("Wed, 21 Oct 2199 07:28:00 GMT", r"asks to wait [\d,]+ s \(Retry-After\); tried again after 0.05 s"),
        ("Wed, 21 Oct 2015 07:28:00 GMT", ""),
        ("-5", ""),
        ("soon", ""),
        ("nan", ""),
        ("1e999", ""),
        ("9" * 500, ""),
        ("Wed, 99 Oct 99999 07:28:00 GMT", ""),
    ],
)
def test_a_server_may_ask_for_so_much_time_only(
    serve: Callable[..., Server], ask: Ask, asked: str, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vila2cli.engine.api.MAX_RETRY_AFTER_S", 0.05)
    server = serve(lambda _, number: problem(429) if number == 1 else completion(), **{"Retry-After": asked})
    engine = connect(server.url)
    (result,) = engine.generate([ask(1)])
    assert result.error is None
    said = [text for text in engine.notes if "Retry-After" in text]
    if note:
        (text,) = said
        assert re.search(note, text)
    else:
        assert said == []


# Where pictures and keys go


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
)
def test_a_redirect_to_another_server_is_refused(serve_raw: Callable[..., Raw], ask: Ask, status: str) -> None:
    other = serve_raw(lambda file, number: file.write(json_answer(good())))
    location = f"{other.url}/chat/completions?key={KEY}"
    server = serve_raw(lambda file, number: file.write(json_answer(b"", status, Location=location)))
    with pytest.raises(ModelError, match="redirects to another server") as caught:
        list(connect(server.url).generate([ask(1)]))
    assert other.heads == []
    assert KEY not in str(caught.value)
    secure = server.url.replace("http", "https", 1)
    server = serve_raw(lambda file, number: file.write(json_answer(b"", status, Location=secure)))
    with pytest.raises(ModelError, match="redirects to another server"):
        list(connect(server.url).generate([ask(1)]))


def test_a_redirect_on_the_same_server_is_followed(serve_raw: Callable[..., Raw], ask: Ask) -> None:
    def write(file: IO[bytes], number: int) -> None:
        is_first = number == 1
        file.write(json_answer(b"", "307 There", Location="/v2/chat") if is_first else json_answer(good()))

    server = serve_raw(write)
    (result,) = connect(server.url).generate([ask(1)])
    assert result.text == "a red star"
    assert server.heads[1].startswith("POST /v2/chat ")
    assert server.bodies[0] == server.bodies[1]
    circle = serve_raw(lambda file, number: file.write(json_answer(b"", "308 Round", Location=f"/{number}")))
    with pytest.raises(ModelError, match="in a circle"):
        list(connect(circle.url).generate([ask(1)]))


def test_what_is_meant_for_openai_goes_to_no_other_server(
    serve_raw: Callable[..., Raw], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", f"for-openai-{name}")
    monkeypatch.setenv(
        "OPENAI_CUSTOM_HEADERS", "X-Team: for-openai-1\nauthorization: for-openai-2\nX-Other:for-openai-3"
    )
    server = serve_raw(lambda file, number: file.write(json_answer(good())))
    for key in ("", KEY):
        api = ApiSettings(base_url=server.url, model="m")
        list(open_engine("api", "", EngineSettings(api=api, api_key=key)).generate([ask(1)]))
    assert "for-openai" not in "\n".join(server.heads)
    assert f"Bearer {KEY}" not in server.heads[0]
    assert f"Bearer {KEY}" in server.heads[1]


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_wants_a_key_is_told_apart(serve: Callable[..., Server], ask: Ask, status: int) -> None:
    server = serve(lambda body, number: problem(status, "who are you?"))
    api = ApiSettings(base_url=server.url, model="m")
    with pytest.raises(
        ModelError,
        match=rf"refuses the key \({status}\): none was sent.*api\.key_env, of a judge in judges\.NAME",
    ):
        list(open_engine("api", "", EngineSettings(api=api)).generate([ask(1)]))


# What is said of a key


def leaks(text: object) -> bool:
    return any(form in str(text) for form in (KEY, KEY.replace("/", "%2F"), "0123456789abcdef"))


@pytest.mark.parametrize("offset", range(0, 300, 7))
def test_a_key_that_a_server_repeats_is_masked_before_it_is_cut(
    serve: Callable[..., Server], ask: Ask, offset: int
) -> None:
    said = "x" * offset + f" {KEY} " + "y" * 300
    replies = [problem(500, said), (200, said), (200, {"error": {"message": said}}), problem(400, said)]
    server = serve(lambda body, number: replies[min(number, 4) - 1])
    engine = connect(server.url, retries=3)
    (result,) = engine.generate([ask(1)])
    assert result.error is not None
    assert not leaks([result, *engine.notes])


@pytest.mark.parametrize(
    "body",
    [
        changed(choice_message={"content": f"a red star {KEY}"}),
        changed(choice_message={"content": "no", "refusal": f"not with {KEY}"}),
        changed(choice_finish_reason=KEY),
        changed(usage={"prompt_tokens": KEY, "completion_tokens": 1}),
        changed(choice_message={"content": {"text": KEY}}),
    ],
)
def test_an_answer_does_not_hold_the_key(serve: Callable[..., Server], ask: Ask, body: dict[str, Any]) -> None:
    server = serve(lambda _, number: (200, body))
    engine = connect(server.url)
    (result,) = engine.generate([ask(1)])
    assert not leaks([result, *engine.notes])
    assert "***" in f"{result.text} {result.error}"


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
def test_no_error_holds_a_key_or_a_password(serve: Callable[..., Server], ask: Ask, status: int) -> None:
    server = serve(lambda _, number: problem(status, f"{KEY} pass-9876 Bearer {KEY}", "insufficient_quota"))
    url = server.url.replace("http://", "http://me:pass-9876@")
    engine = connect(f"{url}?sig=abcdef123456", retries=0)
    try:
        text = str(list(engine.generate([ask(1)])))
    except Vila2Error as error:
        text = str(error)
    shown = " ".join([text, *engine.notes])
    assert not leaks(shown)
    assert not any(secret in shown for secret in ("pass-9876", "abcdef123456"))
