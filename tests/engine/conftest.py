"""Requests, and a tiny Idefics3 or a server to ask, for the engines' tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chat_server import Server, serving
from tiny_vlm import build_random_vlm, picture
from vila2cli.engine import Request, ScoreRequest, pace
from vila2cli.shards.sample import Turn


@pytest.fixture(scope="session")
def random_vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_random_vlm(tmp_path_factory.mktemp("random_vlm"))


@pytest.fixture(scope="session")
def small_head_vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 8 channels, for which vLLM has no kernel on CPU."""
    return build_random_vlm(tmp_path_factory.mktemp("small_head_vlm"), num_heads=16)


@pytest.fixture(scope="session")
def ask() -> Callable[..., Request]:
    """`ask(7, group="a")` is a request to describe picture 7."""

    def request(number: int, text: str = "Describe the image in details.", **settings: Any) -> Request:
        defaults: dict[str, Any] = {"images": (picture(number),), "max_new_tokens": 24, "seed": number}
        return Request(id=str(number), messages=(Turn("user", text),), **(defaults | settings))

    return request


@pytest.fixture(scope="session")
def judge() -> Callable[..., ScoreRequest]:
    """`judge(7, "A red star.")` is a request to score a caption of picture 7."""

    def request(number: int, text: str, **settings: Any) -> ScoreRequest:
        turns = (Turn("user", "Describe the image in details."),)
        defaults: dict[str, Any] = {"id": str(number), "messages": turns, "images": (picture(number),)}
        return ScoreRequest(text=text, **(defaults | settings))

    return request


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with serving() as start:
        yield start


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "MAX_WAIT_S", 0.02)


class Ladder:
    """A stream of requests that may run dry and go on: `push` puts one in front of what is left."""

    def __init__(self, requests: list[Request]) -> None:
        self._waiting = list(requests)

    def push(self, request: Request) -> None:
        self._waiting.insert(0, request)

    def __iter__(self) -> "Ladder":
        return self

    def __next__(self) -> Request:
        if not self._waiting:
            raise StopIteration
        return self._waiting.pop(0)


@pytest.fixture(scope="session")
def ladder() -> type[Ladder]:
    return Ladder
