"""`vila2 run`: stages in order, each in a process of its own, going on where it stopped."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from forks import Forks
from vila2cli.cli.app import main
from vila2cli.cli.walk import Machine, Walk
from vila2cli.run.stages import Stage
from vila2cli.settings.recipe import shipped_recipes

REPO = Path(__file__).parents[1]
TINY = [
    "rounds=1",
    "world.num_pretrain=12",
    "world.num_interleaved=2",
    "world.num_text=4",
    "world.num_sft=6",
    "world.num_specialist=4",
    "world.num_dev=2",
    "world.num_eval=4",
    "pretrain.align.epochs=1.0",
    "pretrain.main.epochs=1.0",
    "sft.epochs=1.0",
    "eval.num_bootstrap=20",
    "eval.tasks=['data/world/eval/ocr']",
]
FLAGS = ["--recipe", "world", *(word for one in TINY for word in ("--set", one))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder in which round 0 was run by the name of a recipe alone."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "round0", *FLAGS]) == 0
    return folder


def test_a_round_is_run_from_an_empty_folder(run: Path) -> None:
    for name in ("data/world/world.json", "runs/world/round0/eval/metrics.json"):
        assert (run / name).is_file(), name


def test_what_is_complete_is_not_run_again(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert main(["run", "round0", *FLAGS]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_other_settings_are_not_taken_for_complete(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    other = [*FLAGS, "--set", "sft.learning_rate=0.001"]
    assert main(["run", "round0", *other, "--dry-run"]) == 0
    assert "vila2 sft --round 0  # run: round0-pretrain comes before it" in capfd.readouterr().out
    assert main(["run", "round0", *other]) == 2
    assert "learning_rate was 0.0005, now 0.001" in capfd.readouterr().err
    assert main(["run", "round0", *FLAGS]) == 0  # what was looked at with other settings is looked at again
    assert main(["run", "round0", *FLAGS, "--set", "cost.dollars_per_hour=2", "--set", "slurm.nodes=2"]) == 0
    assert "nothing to do" in capfd.readouterr().out


def test_without_a_recipe_nothing_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run"]) == 2
    assert "--recipe world" in capsys.readouterr().err


def test_a_dry_run_says_what_would_run_and_why(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    (tmp_path / "copy/runs/world/round0/sft/vila2.json").unlink()
    assert main(["run", "round0", *FLAGS, "--dry-run"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["round0-pretrain"].endswith("# complete")
    assert lines["round0-sft"].endswith("# run: runs/world/round0/sft/vila2.json is missing")
    assert lines["round0-eval"].endswith("# run: round0-sft comes before it")


def test_a_stage_that_fails_ends_the_run_with_its_code(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    shutil.rmtree("runs/world/round0/sft")
    (tmp_path / "copy/runs/world/round0/pretrain/model.safetensors").write_bytes(b"")
    assert main(["run", "round0", *FLAGS]) == 5
    assert "Traceback" not in capfd.readouterr().err
    assert not Path("runs/world/round0/eval/again").exists()


def test_missing_data_are_found_before_the_first_hour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sets = ["data.pretrain=['nowhere/*.tar']", "data.sft=['nowhere/*.tar']", "eval.tasks=['nowhere/*']"]
    assert main(["run", "round0", *(word for one in sets for word in ("--set", one))]) == 4
    captured = capsys.readouterr()
    assert "checks failed" in captured.err
    assert "nowhere/*.tar" in captured.out
    assert not list(tmp_path.iterdir())


def test_stages_side_by_side_name_their_lines(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    shutil.rmtree("runs/world/round0/eval")
    assert main(["run", "round0", *FLAGS, "--jobs", "2"]) == 0
    said = capfd.readouterr().out
    assert "round0-eval | round 0 eval: done (runs/world/round0/eval)\n" in said
    assert main(["run", "round0", *FLAGS, "--jobs", "0"]) == 2


def test_the_first_failure_stops_what_runs_beside_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    long = Stage("long", "world", ("world", "--recipe", "world"), Path("data"))
    wrong = Stage("wrong", "world", ("world", "--recipe", "none"), Path("data"))
    never = Stage("never", "world", ("world", "--recipe", "world"), Path("data"), after=("wrong",))
    walk = Walk([long, wrong, never], [], 2, Machine(2), lambda stage, ran: "asked for", lambda stage: None)
    with pytest.raises(typer.Exit) as ended:
        walk.run()
    assert ended.value.exit_code == 2
    assert list(walk.ran) == ["wrong", "long"]  # others wait for the first
    said = capfd.readouterr().err
    reason = next(line for line in said.splitlines() if line.startswith("wrong | vila2: "))
    ended_so = reason.replace("wrong | vila2: ", "vila2: wrong failed: ")
    assert said.splitlines()[-1] == f"{ended_so}; long was stopped and goes on next time"
    assert not list(tmp_path.rglob("world.json"))


def test_a_machine_shares_cores_and_fills_gpus() -> None:
    assert [Machine(cores).jobs("auto") for cores in (1, 2, 16)] == [1, 2, 2]
    assert Machine(16, ("0", "1", "2")).jobs("auto") == 1
    assert Machine(16, ("0", "1", "2")).jobs("8") == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_the_stage(forks: Forks, tmp_path: Path, number: signal.Signals) -> None:
    command = ["-m", "vila2cli", "run", "round0", *FLAGS, "--set", "pretrain.main.epochs=400.0"]
    process = forks.start(command, folder=tmp_path)
    steps = tmp_path / "runs/world/round0/pretrain.partial"
    end_s = time.monotonic() + 120
    while not list(steps.glob("**/steps.jsonl")) and time.monotonic() < end_s:
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(number)
    assert process.wait() == (75 if number == signal.SIGTERM else -signal.SIGKILL), process.communicate()
    end_s = time.monotonic() + 60
    while left_in(tmp_path):
        assert time.monotonic() < end_s, "a stage goes on without the run that started it"
        time.sleep(0.05)
    output = "".join(process.communicate())
    assert "Traceback" not in output
    assert "stopped by SIGTERM; run the same command again to go on" in output
    assert not (tmp_path / "runs/world/round0/pretrain").exists()


def left_in(folder: Path) -> list[Path]:
    """The processes that run in a folder."""
    return [path for path in Path("/proc").glob("[0-9]*/cwd") if path.exists() and path.resolve() == folder]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="asks Linux for the children of a process")
def test_a_signal_in_a_stages_first_moment_is_one_like_any_other(tmp_path: Path) -> None:
    """Python is not up yet, and nothing in the stage can heed it."""
    command = [sys.executable, "-m", "vila2cli", "run", "world", *FLAGS]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and not children.read_text():
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert said == "vila2: stopped by SIGTERM; run the same command again to go on\n"


def test_recipes_are_found_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "list"]) == 0
    listed = capsys.readouterr().out
    assert {line.split()[0] for line in listed.splitlines()} == set(shipped_recipes())
    assert all(line.endswith(".") for line in listed.splitlines()), "half a sentence says what a recipe is"
    assert main(["recipe", "show", "vila2-8b"]) == 0
    assert capsys.readouterr().out == (REPO / "recipes" / "vila2-8b.toml").read_text()
    assert main(["recipe", "show", "none"]) == 2
    assert main(["check", "wold"]) == 2
    assert "did you mean world?" in capsys.readouterr().err
