"""Rates, budgets and waits of requests to a server, without one."""

import pytest

from vila2cli.engine import pace as pace_module
from vila2cli.engine.pace import Budget, RateLimit, wait_s
from vila2cli.engine.replies import Usage
from vila2cli.settings import ApiSettings


def test_turns_of_the_rate_limit() -> None:
    rate = RateLimit(60)
    assert [rate.turn(now) for now in (0.0, 0.0, 0.5, 10.0)] == [0.0, 1.0, 1.5, 0.0]
    rate.hold(20.0)
    assert rate.turn(11.0) == 9.0
    assert [RateLimit(0).turn(now) for now in (1.0, 1.0)] == [0.0, 0.0]


def test_a_limited_budget_learns_the_length_of_a_prompt_first() -> None:
    budget = Budget(ApiSettings(max_tokens_total=100))
    assert budget.reserve(1, 10)
    assert not budget.reserve(2, 10)
    budget.settle(1, Usage(30, 5))
    assert budget.reserve(2, 10)  # 35 used, 40 set aside
    assert not budget.reserve(3, 10)
    assert Budget(ApiSettings()).reserve(1, 10**9)


def test_waits_double_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "MAX_WAIT_S", 30.0)
    assert [wait_s(attempt, 0.5) for attempt in range(1, 9)] == [1, 2, 4, 8, 16, 30, 30, 30]
    assert wait_s(3, 0.0) == 2.0
