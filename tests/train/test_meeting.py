"""Processes of two trainings that derive the same port find their own."""

import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from vila2cli.ranks import Rank
from vila2cli.train.meeting import meeting_place, place_of_this_start

SOON = timedelta(seconds=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return min(port, 65000)


def test_two_trainings_at_one_port_do_not_mix() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    stores = {(name, i): None for i in (0, 1) for name in ("12.0", "12.1")}
    for name, index in stores:
        stores[name, index] = meeting_place(Rank(index, 2, index, address, name), SOON)
    for name in ("12.0", "12.1"):
        stores[name, 0].set("said", name)
    assert {name: stores[name, 1].get("said").decode() for name in ("12.0", "12.1")} == {
        "12.0": "12.0",
        "12.1": "12.1",
    }


def test_a_port_that_something_else_has_is_passed_over() -> None:
    with socket.create_server(("", free_port())) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        first = meeting_place(Rank(0, 2, 0, address, "12.0"), SOON)
        taken.close()  # which a second process then finds closed, as one of another kind answers nothing
        second = meeting_place(Rank(1, 2, 1, address, "12.0"), SOON)
        first.set("said", "so")
        assert second.get("said") == b"so"


def test_nobody_there_is_told_in_time() -> None:
    with pytest.raises(RuntimeError, match="no answer"):
        meeting_place(Rank(1, 2, 1, f"tcp://127.0.0.1:{free_port()}", "12.0"), timedelta(seconds=1))


def test_those_started_again_do_not_wait_where_those_before_met() -> None:
    launchers = dist.TCPStore("127.0.0.1", 0, None, True, SOON, wait_for_workers=False)
    launchers.set("vila2/place", str(free_port()))
    with ThreadPoolExecutor() as pool:
        second = pool.submit(place_of_this_start, "127.0.0.1", launchers, SOON, is_first=False)
        first = place_of_this_start("127.0.0.1", launchers, SOON, is_first=True)
        first.set("said", "so")
        assert second.result().get("said") == b"so"
