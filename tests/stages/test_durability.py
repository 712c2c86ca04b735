"""Recaptioning that is killed, told to stop, given damaged or remote shards, or started twice."""

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from forks import Forks
from loopback import serve
from vila2cli.errors import DataError, Interrupted
from vila2cli.run.locks import lock
from vila2cli.run.workers import Worker
from vila2cli.settings.recipe import Recipe, load_recipe
from vila2cli.shards import TarWriter, done, open_source, read_shard, streams
from vila2cli.stages.recaption import recaption

REPO = Path(__file__).parents[2]
NUM_SHARDS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("durability") / "data"
    for shard in range(NUM_SHARDS):
        with TarWriter(folder / f"{shard:06}.tar") as tar:
            for index in range(3):
                stream = io.BytesIO()
                Image.new("RGB", (64, 64), (60 * shard, 80 * index, 90)).save(stream, "JPEG")
                tar.write_sample(f"{shard}-{index}", {"jpg": stream.getvalue(), "txt": b"a plain colour"})
    return folder


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    sets = ["engine=hf", "max_new_tokens=4", "batch_size=4", "max_reject_rate=1.0", "retry_temperatures=[]"]
    return load_recipe(None, [f"recaption.{text}" for text in sets])


def write(recipe: Recipe, model: Path, out: Path, shards: str, worker: Worker | None = None) -> None:
    recaption(recipe, shards=[shards], model=model, out=out, round=1, worker=worker)


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar.gz"))}


def test_a_damaged_shard_does_not_stop_the_others(
    recipe: Recipe, tiny_checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for path in data.glob("*.tar"):
        (own / path.name).write_bytes(path.read_bytes())
    (own / "000001.tar").write_bytes((data / "000001.tar").read_bytes()[:4000])
    out = tmp_path / "r1"
    with pytest.raises(DataError, match=r"000001\.tar is damaged or cut off"):
        write(recipe, tiny_checkpoint, out, f"{own}/*.tar")
    assert "going on with the next shard" in capsys.readouterr().err
    assert done(out) == {"000000", "000002", "000003"}
    kept = {name: (out / f"{name}.tar.gz").stat().st_ino for name in done(out)}
    (own / "000001.tar").write_bytes((data / "000001.tar").read_bytes())
    write(recipe, tiny_checkpoint, out, f"{own}/*.tar")
    assert len(done(out)) == NUM_SHARDS
    assert kept == {name: (out / f"{name}.tar.gz").stat().st_ino for name in kept}
    assert json.loads((out / "summary.json").read_text())["in"] == 3 * NUM_SHARDS


def test_shards_from_a_web_server_that_breaks_off(
    recipe: Recipe, tiny_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "RETRY_WAITS_S", (0.01,) * 5)
    write(recipe, tiny_checkpoint, tmp_path / "near", f"{data}/*.tar")
    with serve(data) as web:
        web.break_after, web.num_breaks = 2000, 4
        url = f"{web.url}/{{000000..00000{NUM_SHARDS - 1}}}.tar"
        write(recipe, tiny_checkpoint, tmp_path / "far", url)
        assert web.num_breaks == 0
        assert tars(tmp_path / "far") == tars(tmp_path / "near")
        samples = [
            sample
            for shard in open_source([str(tmp_path / "far")]).shards
            for sample in read_shard(shard, on_reject=pytest.fail)
        ]
    assert len(samples) == 3 * NUM_SHARDS
    message = (
        r"3 shards in a row cannot be read, the last one: .*/000002\.tar: the server answers 404 Not Found"
    )
    with serve(tmp_path) as empty, pytest.raises(DataError, match=message):
        write(recipe, tiny_checkpoint, tmp_path / "gone", f"{empty.url}/{{000000..000009}}.tar")


def test_the_second_of_two_processes_is_told(
    recipe: Recipe, tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r1"
    for first, second in [(None, Worker(0, 2)), (Worker(0, 2), None), (Worker(0, 2), Worker(1, 3))]:
        with lock(out, first), pytest.raises(DataError, match=r"r1 is in use by .*process \d+ on ") as error:
            write(recipe, tiny_checkpoint, out, f"{data}/*.tar", second)
        assert "\n" not in str(error.value)
    assert not list(out.glob("*.tar.gz"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_at_any_moment_of_a_command_is_exit_code_75(data: Path, number: signal.Signals) -> None:
    """Also before a stage has begun to look out for it: here while the shard is still being read."""
    command = [sys.executable, "-m", "vila2cli", "shards", "show", "pipe:sleep 60 # 0.tar"]

    def heed_ctrl_c() -> None:  # which a background job ignores, and its children with it
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c) as process:
        deadline = time.monotonic() + 60
        while not children(process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(30) == Interrupted.exit_code
    assert said == f"vila2: stopped by {number.name}; run the same command again to go on\n"


def children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()


@pytest.mark.slow
@pytest.mark.parametrize("number", ["KILL", "TERM"])
def test_killed_at_random_moments_the_layer_is_the_same(forks: Forks, tmp_path: Path, number: str) -> None:
    """The short form of benchmarks/durability.py, which compares every byte, and what is left over."""
    script, figures = REPO / "benchmarks" / "durability.py", tmp_path / "figures.json"
    size = ["--num-shards", "6", "--num-samples", "4", "--kills", "4", "--signal", number]
    shown = ["--photos", str(tmp_path), "--workers", "0", "1", "2"]  # drawn ones, of all sizes
    process = forks.start([str(script), *size, *shown, "--out", str(figures)])
    _, said = process.communicate()
    assert process.returncode == 0, said
    found = json.loads(figures.read_text())
    assert found["kills"] == 4
    assert found["layers"] >= 1
