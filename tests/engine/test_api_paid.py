"""Answers of a server that were paid for are not thrown away when another request ends the stage."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from chat_server import Reply, completion, problem, serving
from vila2cli.engine import EngineSettings, Request, open_engine
from vila2cli.errors import ModelError
from vila2cli.settings import ApiSettings


def test_answers_that_have_come_are_given_before_an_error_is_raised(ask: Callable[..., Request]) -> None:
    """One request ends the stage while the caller is busy, and then two more are answered."""
    taken, refused = threading.Event(), threading.Event()

    def reply(body: dict[str, Any], number: int) -> Reply:
        text = json.dumps(body["messages"])
        if "wrong" in text:
            taken.wait(10)  # else the refusal may come before the first answer
            refused.set()
            return problem(401, "who are you?")
        if "late" in text:
            refused.wait(10)
            time.sleep(0.2)  # the refusal is taken in before
        return completion()

    with serving() as serve:
        api = ApiSettings(base_url=serve(reply).url, model="m", max_in_flight=4)
        engine = open_engine("api", "", EngineSettings(api=api, api_key="secret-key"))
        results = engine.generate([ask(0), ask(1, "wrong"), ask(2, "late"), ask(3, "late")])
        found = [next(results).id]
        taken.set()
        deadline_s = time.monotonic() + 10
        while engine._num_answers < 3 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        time.sleep(0.1)
        with pytest.raises(ModelError, match="refuses the key"):
            found.extend(result.id for result in results)
        assert sorted(found) == ["0", "2", "3"]
