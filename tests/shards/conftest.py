from collections.abc import Iterator
from pathlib import Path

import pytest
from stream_data import NUM_EACH, NUM_SHARDS, jpeg

from loopback import Web, serve
from vila2cli.shards import TarWriter, streams


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("web")
    for number in range(NUM_SHARDS):
        with TarWriter(root / "data" / f"{number:06}.tar") as tar:
            for i in range(NUM_EACH):
                tar.write_sample(f"{number}-{i}", {"jpg": jpeg(16 * number + i), "txt": b"alt"})
    return root


@pytest.fixture
def web(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(streams, "RETRY_WAITS_S", (0.01,) * 5)
    with serve(data) as server:
        yield server
