import pytest

from vila2cli.ask.failures import MIN_FAILED, Budgets, EngineFailures, error_kind
from vila2cli.errors import RejectBudgetError


def test_the_budget_is_held_as_soon_as_the_share_is_to_be_trusted() -> None:
    failures = EngineFailures(0.05)
    for number in range(MIN_FAILED - 1):
        failures.count(f"prompt of {900 + number} tokens does not fit")
    with pytest.raises(RejectBudgetError, match=r"100 of 100 samples.* 5\.0%; 99 times: prompt of 900 tokens"):
        failures.count("odd")


def test_failures_within_the_budget_are_let_pass() -> None:
    failures = EngineFailures(0.5)
    for _ in range(3 * MIN_FAILED):
        failures.count(None)
        failures.count("too long")
    tolerant = EngineFailures(1.0)
    for _ in range(3 * MIN_FAILED):
        tolerant.count("too long")
    assert not tolerant.gives_up(20, 20)
    tolerant.check()


def test_a_shard_without_any_answer_is_given_up() -> None:
    failures = EngineFailures(0.05)
    assert not failures.gives_up(0, 0)
    assert not failures.gives_up(20, 19)
    failures.check()
    for _ in range(20):
        failures.count("400 no images please")
    assert failures.gives_up(20, 20)
    with pytest.raises(RejectBudgetError, match=r"every sample of 1 shards, .*20 times: 400 no images please"):
        failures.check()


def test_errors_that_differ_in_numbers_are_of_one_kind() -> None:
    assert error_kind("prompt of 900 tokens, request 7fa3b") == error_kind("prompt of 12 tokens, request 9c")
    assert error_kind("no images") != error_kind("no key")


def test_of_several_layers_one_may_spend_its_budget() -> None:
    budgets = Budgets({"ocr": "recaption", "spatial": "recaption"}, 0.1)
    for _ in range(MIN_FAILED - 1):
        assert budgets.count("ocr", "no") is None
        assert budgets.count("spatial", None) is None
    budgets.check()
    why = budgets.count("ocr", "no")
    assert why is not None
    assert f"failed on {MIN_FAILED} of {MIN_FAILED}" in why
    assert budgets.is_spent("ocr")
    assert not budgets.is_spent("spatial")
    with pytest.raises(
        RejectBudgetError, match=rf"failed on {MIN_FAILED} of .*above recaption\.max_reject_rate"
    ):
        budgets.check()
    for _ in range(MIN_FAILED - 1):
        budgets.count("spatial", "no")
    with pytest.raises(RejectBudgetError, match="no"):
        budgets.count("spatial", "no")
