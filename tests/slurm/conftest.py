"""A real Slurm of two nodes on this host, where one is installed."""

import os
from collections.abc import Iterator

import pytest
from cluster import Cluster, why_not


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster, which SLURM_CONF points to for as long as the session lasts."""
    if reason := why_not():
        pytest.skip(reason)
    cluster = Cluster(tmp_path_factory.mktemp("slurm", numbered=True))
    old = os.environ.get("SLURM_CONF")
    try:
        cluster.start()
        os.environ["SLURM_CONF"] = str(cluster.config)
        yield cluster
    finally:
        os.environ.pop("SLURM_CONF", None)
        if old is not None:
            os.environ["SLURM_CONF"] = old
        cluster.stop()
