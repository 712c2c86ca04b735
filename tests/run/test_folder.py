"""Run folders: what decides a folder, who writes it, and that it is whole."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2cli.engine.keys import api_key
from vila2cli.errors import DataError, RecipeError
from vila2cli.run.changes import difference
from vila2cli.run.folder import RunFolder, append_log, claim, complete_folder, digest, read_manifest, write_json
from vila2cli.run.locks import lock
from vila2cli.run.workers import Worker, parse_worker, select
from vila2cli.settings import ApiSettings
from vila2cli.settings.recipe import load_recipe


def test_digest_depends_on_content_alone(tmp_path: Path) -> None:
    assert digest({"a": 1, "b": (1, 2)}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest(tmp_path) == digest(str(tmp_path))
    assert digest(Worker(1, 2)) == digest({"index": 1, "count": 2})
    assert digest(load_recipe()) == digest(load_recipe())
    with pytest.raises(TypeError):
        digest({1, 2})


@given(st.lists(st.integers()), st.integers(1, 9))
def test_workers_split_all_shards_among_them(shards: list[int], count: int) -> None:
    parts = [select(shards, Worker(index, count)) for index in range(count)]
    assert sorted(shard for part in parts for shard in part) == sorted(shards)


@pytest.mark.parametrize(
    ("environ", "worker"),
    [
        ({}, Worker(0, 1)),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, Worker(3, 4)),
        (
            {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"},
            Worker(2, 4),
        ),
        (
            {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_STEP": "2"},
            Worker(2, 4),
        ),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}, Worker(1, 2)),
        # A batch script: four tasks were asked for, this is the only process there is.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Worker(0, 1)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "1",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_PROCID": "1",
                "SLURM_STEP_NUM_TASKS": "2",
            },
            Worker(3, 6),
        ),
    ],
)
def test_worker_from_slurm(environ: dict[str, str], worker: Worker) -> None:
    assert parse_worker(None, environ) == worker
    assert parse_worker("1/3", environ) == Worker(1, 3)


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/b", "1/2/3", "0/0"])
def test_odd_workers_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="i/n"):
        parse_worker(text, {})


def test_an_array_with_gaps_is_refused() -> None:
    with pytest.raises(RecipeError, match="gaps"):
        parse_worker(None, {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "2"})


def test_the_key_of_an_api_is_in_the_variable_named() -> None:
    settings = ApiSettings(key_env="MINE")
    assert api_key(settings, {"MINE": "abc", "OPENAI_API_KEY": "other"}) == "abc"
    assert api_key(settings, {}) == ""


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://api.openai.com/v1", "abc"),
        ("https://eu.api.openai.com/v1", "abc"),
        ("http://api.openai.com/v1", ""),
        ("https://api.openai.com.evil.org/v1", ""),
        ("https://evil.org/api.openai.com/v1", ""),
        ("https://api.openai.com@evil.org/v1", ""),
        ("https://notapi.openai.com/v1", ""),
        ("http://127.0.0.1:8000/v1", ""),
    ],
)
def test_openais_key_is_for_openai(url: str, key: str) -> None:
    assert api_key(ApiSettings(base_url=url), {"OPENAI_API_KEY": "abc"}) == key
    assert api_key(ApiSettings(base_url=url, key_env="OPENAI_API_KEY"), {"OPENAI_API_KEY": "abc"}) == "abc"


def test_claim_says_it_once_and_then_compares(tmp_path: Path) -> None:
    recipe = load_recipe(None, ["seed=3"])
    inputs = {"settings": recipe.recaption.deciding(), "model": tmp_path / "m", "shards": ("a", "b")}
    first = claim(tmp_path / "out", inputs, recipe)
    assert claim(tmp_path / "out", inputs).digest == first.digest
    stored = read_manifest(tmp_path / "out")
    assert stored is not None
    assert stored.digest == first.digest
    assert load_recipe(tmp_path / "out" / "recipe.toml").model_dump() == recipe.model_dump()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "recipe.toml"]


def test_claim_tells_of_a_model_by_its_path_and_of_no_digest(tmp_path: Path) -> None:
    one, two = "1" * 64, "2" * 64
    shards = {"shards": {"000000": [one]}}
    then = {"model_sha256": one, "draw": 1, "prompts": {"long": one}, "base": shards}
    now = {"model_sha256": two, "draw": 2, "prompts": {"long": two}, "base": {"shards": {"a": [], "b": []}}}

    def said(out: Path, model: str) -> str:
        with pytest.raises(RecipeError) as error:
            claim(out, now, model=model)
        assert not re.search("[12]{9}", str(error.value))
        return str(error.value).partition(" was made with other settings: ")[2]

    claim(tmp_path, then)
    assert said(tmp_path, "ckpt/b").startswith(
        "another model than then (now ckpt/b), other shards in base (1, now 2), "
    )
    (tmp_path / "summary.json").write_text('{"model": "ckpt/a"}')
    assert said(tmp_path, "ckpt/b").startswith("another model (ckpt/a, now ckpt/b), ")
    assert said(tmp_path, "ckpt/a").startswith("the model ckpt/a holds other weights than then, ")
    assert "prompts.long changed; set them back" in said(tmp_path, "ckpt/b")
    trained = {"parent": {"path": "ckpt/a", "sha256": one}, "bases": {"llm": {"path": "llm", "sha256": one}}}
    other = {"parent": {"path": "ckpt/b", "sha256": two}, "bases": {"llm": {"path": "llm", "sha256": two}}}
    assert difference(trained, other) == (
        'parent.path was "ckpt/a", now "ckpt/b", bases.llm llm holds other weights than then'
    )


def test_claim_names_what_differs_with_both_values(tmp_path: Path) -> None:
    claim(tmp_path, {"settings": {"share": 1.0, "prompts": ["a"]}, "old": 1})
    with pytest.raises(RecipeError) as error:
        claim(tmp_path, {"settings": {"share": 0.5, "prompts": ["a"]}, "new": 2})
    text = str(error.value)
    assert "settings.share was 1.0, now 0.5" in text
    assert "old was 1, now absent" in text
    assert "new was absent, now 2" in text
    assert "prompts" not in text
    assert "--out" in text


def test_of_many_claims_at_once_one_wins(tmp_path: Path) -> None:
    def attempt(value: int) -> bool:
        try:
            claim(tmp_path / "out", {"value": value})
        except RecipeError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(8)))
    assert sum(won) == 1
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "manifest.json"]


def test_workers_that_start_together_do_not_disturb_each_other(tmp_path: Path) -> None:
    code = """
import multiprocessing, sys
from pathlib import Path
from vila2cli.settings.recipe import load_recipe
from vila2cli.run.folder import claim
from vila2cli.shards import Source, TarWriter, open_layer

def work(folder, gate, index):
    gate.wait()
    claim(folder, {"stage": "recaption"}, load_recipe())
    open_layer(folder, layer="recaption", source=Source(()))
    with TarWriter(folder / f"{index}.tar") as tar:
        tar.write_sample("key", {"txt": b"text"})

context = multiprocessing.get_context("fork")
for turn in range(8):
    gate = context.Barrier(12)
    folder = Path(sys.argv[1]) / str(turn)
    workers = [context.Process(target=work, args=(folder, gate, index)) for index in range(12)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    assert [worker.exitcode for worker in workers] == [0] * 12
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == sorted(map(str, range(8)))
    files = {"manifest.json", "recipe.toml", "layer.json"}
    files |= {f"{index}.{end}" for index in range(12) for end in ("tar", "stats.json")}
    for folder in tmp_path.iterdir():
        assert {path.name for path in folder.iterdir()} == files


def test_a_folder_of_other_shards_is_never_claimed(tmp_path: Path) -> None:
    (tmp_path / "000.tar").write_bytes(b"pictures")
    with pytest.raises(RecipeError, match=r"holds shards of something else \(000\.tar\)"):
        claim(tmp_path, {"stage": "recaption"})
    assert list(tmp_path.iterdir()) == [tmp_path / "000.tar"]


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        claim(tmp_path, {})


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "a" / "ckpt"

    def write_and_fail() -> None:
        with complete_folder(out) as partial:
            (partial / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert not out.exists()
    with complete_folder(out, resume=True) as partial:
        assert (partial / "half").exists()
    assert [path.name for path in out.iterdir()] == ["half"]
    with pytest.raises(DataError, match="there already"), complete_folder(out):
        pass


def test_leftovers_are_removed_unless_resuming(tmp_path: Path) -> None:
    (tmp_path / "ckpt.partial").mkdir()
    (tmp_path / "ckpt.partial" / ".vila2-folder").touch()
    (tmp_path / "ckpt.partial" / "old").write_text("x")
    with complete_folder(tmp_path / "ckpt") as partial:
        (partial / "new").write_text("y")
    assert [path.name for path in (tmp_path / "ckpt").iterdir()] == ["new"]


@contextmanager
def another_process_holds(out: Path, worker: Worker) -> Iterator[subprocess.Popen[str]]:
    code = (
        "import sys; from pathlib import Path; from vila2cli.run.locks import lock\n"
        "from vila2cli.run.workers import parse_worker\n"
        "with lock(Path(sys.argv[1]), parse_worker(sys.argv[2])): print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(out), str(worker)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        yield other
        other.kill()


@pytest.mark.parametrize(
    ("held", "refused", "admitted"),
    [
        (Worker(), [Worker(), Worker(1, 4)], []),
        (Worker(1, 4), [Worker(), Worker(1, 4), Worker(0, 2)], [Worker(0, 4), Worker(2, 4)]),
    ],
)
def test_a_locked_folder_is_refused_and_the_holder_named(
    tmp_path: Path, held: Worker, refused: list[Worker], admitted: list[Worker]
) -> None:
    out = tmp_path / "out"
    with another_process_holds(out, held) as other:
        for worker in refused:
            message = rf"in use by .*process {other.pid} on "
            with pytest.raises(DataError, match=message) as error, lock(out, worker):
                pass
            assert "\n" not in str(error.value)
        with ExitStack() as stack:
            for worker in admitted:
                stack.enter_context(lock(out, worker))
    for worker in (*refused, *admitted):  # a killed process holds nothing
        with lock(out, worker):
            pass
    assert list(tmp_path.iterdir()) == []


def test_workers_come_and_go_while_others_hold_their_parts(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with lock(out, Worker(0, 3)):
        with lock(out, Worker(1, 3)):
            pass
        with lock(out, Worker(2, 3)), pytest.raises(DataError, match="3 workers, the first of them process"):
            lock(out).__enter__()
    with lock(out):
        pass
    assert list(tmp_path.iterdir()) == []


def test_written_json_and_log_lines(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "x.json", {"path": tmp_path, "word": "é"})
    assert json.loads((tmp_path / "a" / "x.json").read_text())["path"] == str(tmp_path)
    append_log(tmp_path / "log.jsonl", step=1)
    append_log(tmp_path / "log.jsonl", step=2)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["time"].endswith("+00:00")


def test_paths_of_a_run() -> None:
    folder = RunFolder(Path("runs/world"))
    assert folder.stage("sft", 2) == Path("runs/world/round2/sft")
    assert folder.stage("sft", None) == Path("runs/world/final/sft")
    assert folder.specialist("ocr") == Path("runs/world/specialists/ocr/checkpoint")
    assert folder.relabel("ocr") == Path("runs/world/specialists/ocr/relabel")
    assert folder.report == Path("runs/world/report.html")
