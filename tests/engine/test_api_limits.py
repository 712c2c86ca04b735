"""The API engine keeps to limits: requests, pixels and tokens in flight, the rate, and the budget."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from chat_server import Reply, Server, completion, connect, problem
from vila2cli.ask.meter import Meter
from vila2cli.engine import Request, batching
from vila2cli.errors import BudgetError, ModelError

Ask = Callable[..., Request]
pytestmark = pytest.mark.usefixtures("short_waits")


def test_no_more_are_in_flight_than_allowed(serve: Callable[..., Server], ask: Ask) -> None:
    def reply(body: dict[str, Any], number: int) -> Reply:
        time.sleep(0.01)
        return completion()

    server = serve(reply)
    num_read = 0

    def stream() -> Iterator[Request]:
        nonlocal num_read
        for seed in range(200):
            num_read += 1
            yield ask(seed)

    results = connect(server.url, max_in_flight=5).generate(stream())
    for _ in range(20):
        next(results)
    assert 1 < server.most_open <= 5
    assert num_read <= 25
    results.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name == "vila2-api"]


def test_no_more_pixels_are_in_flight_than_memory_is_for(
    serve: Callable[..., Server], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply(body: dict[str, Any], number: int) -> Reply:
        time.sleep(0.01)
        return completion()

    server = serve(reply)
    monkeypatch.setattr(batching, "MAX_OPEN_PIXELS", 3 * 64 * 64)
    assert len(list(connect(server.url, max_in_flight=9).generate(ask(seed) for seed in range(20)))) == 20
    assert server.most_open <= 3
    one_large = ask(0, images=(Image.new("RGB", (400, 400)),))
    assert len(list(connect(server.url).generate([one_large, one_large]))) == 2


def test_requests_keep_to_the_rate(serve: Callable[..., Server], ask: Ask) -> None:
    server = serve(lambda body, number: completion())
    begun_s = time.monotonic()  # before the first is sent, so that a late first one shortens nothing
    list(connect(server.url, requests_per_minute=1200).generate(ask(seed) for seed in range(9)))
    assert server.times_s[-1] - begun_s >= 8 * 0.05


def test_a_server_may_ask_everybody_to_wait(serve: Callable[..., Server], ask: Ask) -> None:
    server = serve(lambda body, number: problem(429) if number == 1 else completion(), **{"Retry-After": "1"})
    list(connect(server.url, max_in_flight=1).generate([ask(1), ask(2)]))
    assert server.times_s[1] - server.times_s[0] > 0.95


def test_the_budget_of_tokens_holds(serve: Callable[..., Server], ask: Ask) -> None:
    server = serve(lambda body, number: completion(num_read=20, num_written=3))
    engine = connect(server.url, max_tokens_total=500)
    results = engine.generate(ask(seed, max_new_tokens=10) for seed in range(100))
    with pytest.raises(BudgetError, match="tokens were read"):
        list(results)
    # Nothing is passed, and no more than one longest request is left unused.
    assert 500 - 30 < 23 * len(server.bodies) <= 500


def test_the_budget_of_dollars_holds_and_needs_prices(serve: Callable[..., Server], ask: Ask) -> None:
    server = serve(lambda body, number: completion(num_read=1000, num_written=100))
    prices = {"dollars_per_million_read": 2.0, "dollars_per_million_written": 10.0}  # 0.003 each
    engine = connect(server.url, max_dollars=0.03, max_in_flight=3, **prices)
    with pytest.raises(BudgetError, match=r"for \$0\.03"):
        list(engine.generate(ask(seed, max_new_tokens=100) for seed in range(100)))
    assert len(server.bodies) == 10
    with pytest.raises(ModelError, match="needs prices"):
        connect(server.url, max_dollars=1.0)


def test_what_a_server_charges_is_metered_once(serve: Callable[..., Server], ask: Ask) -> None:
    server = serve(lambda body, number: completion(num_read=1000, num_written=100))
    engine = connect(server.url, dollars_per_million_read=2.0, dollars_per_million_written=10.0)
    meter = Meter(engine)
    list(engine.generate(ask(seed) for seed in range(5)))
    first, second = meter.read(), meter.read()
    assert first["dollars"] == pytest.approx(5 * 0.003)
    assert "dollars" not in second
    assert first["server_seconds"] == first["seconds"] > 0


def test_a_budget_that_suffices_is_not_felt(serve: Callable[..., Server], ask: Ask) -> None:
    server = serve(lambda body, number: completion(num_read=20, num_written=3))
    results = list(
        connect(server.url, max_tokens_total=261).generate(ask(s, max_new_tokens=4) for s in range(11))
    )
    assert len(results) == 11
