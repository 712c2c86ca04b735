"""Fixtures that several test modules share; the models are the package's own tiny ones, not stand-ins."""

import contextlib
import gc
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forks import Forks

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs torchvision, and let files with slow tests come first.

    Workers take whole files, and none should begin a long one last.
    """
    num_slow: Counter[Path] = Counter()
    for item in items:
        if "zoo" in getattr(item, "fixturenames", ()):
            item.add_marker("torchvision")
        num_slow[item.path] += item.get_closest_marker("slow") is not None
    items.sort(key=lambda item: -num_slow[item.path])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, as tests wait for processes, servers and clocks a fifth of their time."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked with a package that is not installed, so that no test has to say so itself."""
    for package in ("vllm", "torchvision"):
        if item.get_closest_marker(package) and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of the search for garbage, which took a tenth of the time."""
    gc.freeze()
    gc.set_threshold(50_000)


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Starts programs without their imports."""
    with contextlib.closing(Forks(tmp_path_factory.mktemp("forks"))) as forks:
        yield forks


@pytest.fixture(scope="session", autouse=True)
def empty_working_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests run in an empty folder, so that none depends on the `runs/` and `data/` of the checkout."""
    with contextlib.chdir(tmp_path_factory.mktemp("working-folder")):
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Third-party images, captions and answers, laid beside the checkout; not part of the repository."""
    folder = Path(os.environ.get("VILA2_TEST_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no third-party test data in {folder}; set VILA2_TEST_DATA to a folder that has it")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled tower and LLM joined by an untrained projector, as a checkpoint folder."""
    from vila2cli.model.build import build
    from vila2cli.settings import BaseSettings

    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    model, processor = build(BaseSettings(), seed=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny random checkpoint of a stock family, by its name in `zoo.NAMES`, built once."""
    from zoo import HAS_TORCHVISION, build

    if not HAS_TORCHVISION:
        pytest.skip("torchvision is not installed, which the processors of most families need")
    folder = tmp_path_factory.mktemp("zoo")
    return lambda name: build(name, folder)


class VllmServer:
    """A real vLLM server of a checkpoint on loopback, which serves it as "tiny" and asks for a key."""

    key = "only-for-this-test"

    def __init__(self, checkpoint: Path, log: Path, generation_config: str = "vllm") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._checkpoint, self._log, self._generation_config = checkpoint, log, generation_config
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it answers some twenty seconds later."""
        options = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "16"]
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options]
        command += ["--model", str(self._checkpoint), "--served-model-name", "tiny", "--api-key", self.key]
        command += [
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--generation-config",
            self._generation_config,
        ]
        environ = {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # spares a process for its only worker
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=os.environ | environ, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self, timeout_s: float = 300) -> None:
        """Return once it answers."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()[-2000:]
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.5)
        raise TimeoutError(self._log.read_text()[-2000:])

    def kill(self) -> None:
        """SIGKILL to it and to the engine it started."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def vllm_server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """A running server of `tiny_checkpoint`."""
    server = VllmServer(tiny_checkpoint, tmp_path_factory.mktemp("server") / "log")
    try:
        server.start()
        server.wait()
        yield server
    finally:
        server.kill()
