from pathlib import Path

import pytest
from layer_data import make_base, write_layer

from vila2cli.shards import (
    open_source,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "data")


@pytest.fixture
def layer(tmp_path: Path, base: Path) -> Path:
    return write_layer(tmp_path / "r1" / "recaption", open_source([str(base)]))
