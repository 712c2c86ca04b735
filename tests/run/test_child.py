"""How the processes that `vila2` begins wait for each other's threads."""

import os
import subprocess
import sys

import pytest

SHOW = "from vila2cli.run.child import begin_program; begin_program(); import torch; torch.ones(9)"


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings GNU OpenMP on Linux")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["OMP_WAIT_POLICY = 'PASSIVE'", "GOMP_SPINCOUNT = '1000'"]),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ["OMP_WAIT_POLICY = 'ACTIVE'"]),
        ({"GOMP_SPINCOUNT": "77"}, ["GOMP_SPINCOUNT = '77'"]),
    ],
)
def test_threads_that_wait_leave_their_core_unless_the_user_says_how(
    settings: dict[str, str], expected: list[str]
) -> None:
    kept = {name: value for name, value in os.environ.items() if "OMP_" not in name}
    environ = {**kept, **settings, "OMP_DISPLAY_ENV": "VERBOSE"}
    done = subprocess.run([sys.executable, "-c", SHOW], env=environ, capture_output=True, text=True, check=True)
    assert all(line in done.stderr for line in expected)
