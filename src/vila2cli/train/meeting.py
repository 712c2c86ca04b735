"""Where the processes of one training meet, when others may listen at the same port.

Two trainings in one job, or on one node, may derive one port. So the first process takes the next free
one, and the others look for the one where their own training has left its name.
"""

import socket
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from vila2cli.ranks import Rank

_NUM_TRIES = 16
"""Ports that are tried, from the one of the address on."""
_NAME, _PLACE = "training", "vila2/place"
_ANSWER_S = 10.0
_POLL_S = 0.2


def meeting_place(rank: Rank, timeout: timedelta) -> Any:
    """A store that the processes of this training share, and nobody else; raises RuntimeError without one."""
    host, _, port = rank.address.removeprefix("tcp://").rpartition(":")
    ports = range(int(port), min(int(port) + _NUM_TRIES, 1 << 16))
    name = rank.name or _NAME
    store = _opened(host, ports, timeout) if rank.index == 0 else _found(host, lambda: ports, name, timeout)
    own = dist.PrefixStore(name, store)  # type: ignore[attr-defined]
    if rank.index == 0:
        store.set(_sign(name), "here")
    return own


def place_of_this_start(host: str, launchers: Any, timeout: timedelta, *, is_first: bool) -> Any:
    """A store of the processes that torchrun started together this time, known by that of the launchers.

    The launchers' own still holds what processes left that were started before them, such as the addresses of
    some that have ended (pytorch issue 135712). Here that may be found, too, but nobody listens there now.
    """
    if not is_first:
        return _found(host, lambda: [int(launchers.get(_PLACE))], _NAME, timeout)
    store = _opened(host, range(1), timeout)
    store.set(_sign(_NAME), "here")
    launchers.set(_PLACE, str(store.port))
    return store


def _sign(name: str) -> str:
    return f"vila2/{name}"


def _opened(host: str, ports: range, timeout: timedelta) -> Any:
    for port in ports:
        try:
            return dist.TCPStore(  # type: ignore[attr-defined]
                host, port, None, True, timeout, wait_for_workers=False
            )
        except RuntimeError as error:
            if "EADDRINUSE" not in str(error) and "already in use" not in str(error):
                raise
    raise RuntimeError(f"ports {ports.start} to {ports.stop - 1} are in use; set MASTER_PORT to a free one")


def _found(host: str, ports: Callable[[], Iterable[int]], name: str, timeout: timedelta) -> Any:
    end_s = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < end_s:
        for port in ports():
            if _listens(host, port) and (store := _store_of(host, port, name, timeout)) is not None:
                return store
        time.sleep(_POLL_S)
    raise RuntimeError(f"no answer within {timeout.total_seconds():.0f} s")


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_ANSWER_S):
            return True
    except OSError:
        return False


def _store_of(host: str, port: int, name: str, timeout: timedelta) -> Any:
    """The store of the training of this name, None where something else listens."""
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            host, port, None, False, timedelta(seconds=_ANSWER_S), wait_for_workers=False
        )
        if not store.check([_sign(name)]):
            return None
    except RuntimeError:
        return None
    store.set_timeout(timeout)
    return store
