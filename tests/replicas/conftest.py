from pathlib import Path

import pytest
from replica_data import write_shards

from tiny_vlm import build_random_vlm


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("replicas") / "data")


@pytest.fixture(scope="session")
def random_vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_random_vlm(tmp_path_factory.mktemp("random_vlm"))
