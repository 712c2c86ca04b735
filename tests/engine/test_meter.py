"""What layers that are written in one pass are charged."""

import time

import pytest

from vila2cli.ask.meter import Bill, Meter


def test_the_costs_of_a_pass_are_split_by_tokens_and_add_up() -> None:
    before_s = time.perf_counter()
    bill = Bill(Meter(None))
    start_s = time.perf_counter()
    bill.work("spatial", 29)
    bill.work("ocr", 9)
    first = bill.charge("ocr")
    assert bill._owed["spatial"] == pytest.approx({figure: 3 * cost for figure, cost in first.items()})
    bill.work("ocr", 9)
    read_s = time.perf_counter()
    charged = [first, bill.charge("spatial"), bill.charge("ocr")]
    end_s = time.perf_counter()
    assert read_s - start_s <= sum(one["seconds"] for one in charged) <= end_s - before_s
    assert all(one["seconds"] == one["device_seconds"] > 0 for one in charged)


def test_a_layer_by_itself_is_charged_everything() -> None:
    before_s = time.perf_counter()
    bill = Bill(Meter(None))
    start_s = time.perf_counter()
    charged = [bill.charge("ocr")]
    bill.work("ocr", 5)
    read_s = time.perf_counter()
    charged.append(bill.charge("ocr"))
    assert read_s - start_s <= sum(one["seconds"] for one in charged) <= time.perf_counter() - before_s
    assert not bill._owed
