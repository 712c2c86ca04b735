"""`--json`: every command has it, and prints one document on stdout and nothing else, whatever comes of it."""

import ast
import importlib
import json
import re
import subprocess
import sys
import typing
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.core import TyperGroup

from vila2cli import cli
from vila2cli.cli.app import main, program
from vila2cli.run.results import StageResult
from vila2cli.train.job import TrainSummary

SIZES = ("pretrain", "interleaved", "text", "sft", "specialist", "dev", "eval")
SMALL = [word for name in SIZES for word in ("--set", f"world.num_{name}=2")]


def commands(group: TyperGroup, *words: str) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Every command that can be run, and its options."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, *words, name)
        if not isinstance(command, TyperGroup) or command.invoke_without_command:
            yield (*words, name), {option for parameter in command.params for option in parameter.opts}


def test_every_command_has_the_option() -> None:
    options = dict(commands(program()))
    assert len(options) > 30
    assert {("eval",), ("eval", "compare"), ("shards", "check"), ("slurm", "submit")} <= options.keys()
    assert not [words for words, known in options.items() if "--json" not in known]


def test_an_option_of_several_commands_is_declared_once() -> None:
    declared = Counter(
        (getattr(call.args[0], "value", "") if call.args else "", help.value.value)
        for path in Path(cli.__path__[0]).glob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "typer.Option"
        for help in call.keywords
        if help.arg == "help" and isinstance(help.value, ast.Constant)
    )
    assert declared.total() > 80
    assert not [option for option, num in declared.items() if num > 1]


def returned(annotation: object) -> Iterator[type]:
    """The classes that an annotation names, but for containers."""
    inner = typing.get_args(annotation)
    if isinstance(annotation, type) and not inner:
        yield annotation
    for one in inner:
        yield from returned(one)


def test_every_stage_returns_the_results_that_the_guide_names() -> None:
    page = (Path(__file__).parents[1] / "docs/python.md").read_text()
    rows = re.findall(r"^\| `([a-z -]+)` \| (.*) \| (.*) \|$", page, re.MULTILINE)
    known = dict(commands(program()))
    named = set()
    for command, functions, results in rows:
        words = tuple(word for word in command.split() if not word.startswith("--"))
        assert {word for word in command.split() if word.startswith("--")} <= known[words]
        named.add(words)
        found: set[str] = set()
        for name in re.findall(r"`stages\.(\w+\.\w+)`", functions):
            module, function = name.split(".")
            stage = getattr(importlib.import_module(f"vila2cli.stages.{module}"), function)
            annotation = stage.__annotations__["return"]
            kinds = list(returned(TrainSummary if isinstance(annotation, str) else annotation))
            assert kinds, name
            assert all(issubclass(kind, StageResult) for kind in kinds), name
            found |= {kind.__name__ for kind in kinds}
        assert found == set(re.findall(r"`([A-Z]\w+)`", results)), command
    # What these print belongs to no stage.
    others = {("run",), ("check",), *(words for words in known if words[0] in ("slurm", "recipe", "world"))}
    assert named == known.keys() - others


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small world, and a run of which one stage is there."""
    folder = tmp_path_factory.mktemp("json")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["world", *SMALL]) == 0
    stage = folder / "runs/world/round0/eval"
    stage.mkdir(parents=True)
    (stage / "metrics.json").write_text('{"tasks": {}, "qa_mean": {"value": 0.5, "low": NaN}}')
    return folder


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        ("recipe list", {"world", "vila2-8b"}),
        ("recipe show world", {"name", "toml"}),
        ("world --dry-run", {"dry_run", "settings", "out_dir"}),
        ("shards stats data/world/pretrain", {"num_shards", "num_samples", "widths", "words"}),
        ("shards check data/world/pretrain", {"num_shards", "num_samples", "problems"}),
        ("shards show data/world/pretrain -n 1", {"samples"}),
        ("shards merge data/world/pretrain --out merged", {"stage", "in", "out", "dropped"}),
        ("run round1 --recipe world --dry-run", {"run_dir", "stages"}),
        ("run round1 --recipe world --print make", {"make"}),
        ("plan --recipe world", {"stages"}),
        ("runs", {"runs"}),
        ("report --recipe world", {"report"}),
        ("eval import list", {"pope"}),
        ("slurm emit round1 --recipe world", {"scripts"}),
        ("recaption --recipe world --round 1 --dry-run", {"stage", "settings", "model", "out"}),
        ("filter --recipe world --round 1 --dry-run", {"stage", "settings", "inputs", "missing"}),
        ("pretrain --recipe world --round 0 --dry-run", {"stage", "round", "inputs", "worker"}),
        ("sft --recipe world --round 0 --dry-run", {"stage", "round", "inputs", "origins"}),
        ("specialize --recipe world --name ocr --dry-run", {"stage", "model", "out"}),
        ("eval --recipe world --round 0 --dry-run", {"stage", "inputs", "out"}),
        ("judge --recipe world --round 1 --dry-run", {"stage", "inputs", "out"}),
        ("judge --human --layers alt-text r1 --dry-run", {"dry_run", "writes"}),
        ("soup --models a b --dry-run", {"dry_run", "models"}),
    ],
)
def test_stdout_is_one_document(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, keys: set[str]
) -> None:
    monkeypatch.chdir(place)
    assert main([*line.split(), "--json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert keys <= document.keys()
    assert main(line.split()) == 0
    text = capsys.readouterr().out
    assert text
    assert not text.startswith("{"), "what is said without --json is for people"


def test_specialists_that_answer_together_are_a_list(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    line = "specialize --recipe world --relabel --name ocr --name spatial --dry-run --json"
    assert main(line.split()) == 0
    assert [one["stage"] for one in json.loads(capsys.readouterr().out)] == ["ocr relabel", "spatial relabel"]


@pytest.mark.parametrize(
    ("line", "code", "keys"),
    [
        ("runs nowhere", 2, {"error", "exit_code"}),
        ("runs --nowhere", 2, {"error", "exit_code"}),
        ("filter --limit none", 2, {"error", "exit_code"}),
        ("no-command", 2, {"error", "exit_code"}),
        ("shards stats nowhere", 4, {"error", "exit_code"}),
        ("pretrain --recipe world --round x", 2, {"error", "exit_code"}),
        ("shards check broken", 4, {"problems", "num_shards"}),
        ("check --recipe world", 5, {"checks", "stages"}),
    ],
)
def test_errors_have_the_same_codes_and_are_documents_too(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    code: int,
    keys: set[str],
) -> None:
    monkeypatch.chdir(place)
    (place / "broken").mkdir(exist_ok=True)
    (place / "broken/000000.tar").write_bytes(b"no tar" * 200)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = [*line.split(), *(["--set", "base.llm=no/such"] if line.startswith("check") else [])]
    assert main(words) == code
    capsys.readouterr()
    assert main([*words, "--json"]) == code
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert keys <= document.keys()
    assert document.get("exit_code", code) == code
    assert "vila2: " in printed.err or "Usage: vila2" in printed.err


@pytest.mark.parametrize(
    "line", ["--json runs", "--json no-command", "shards --json stats x", "--nowhere --json"]
)
def test_a_mistake_beside_the_option_before_the_command_is_a_document(
    capsys: pytest.CaptureFixture[str], line: str
) -> None:
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["exit_code"] == 2
    assert f"Error: {document['error']}" in printed.err


def test_what_child_processes_print_is_not_in_the_document(tmp_path: Path) -> None:
    words = ["run", "world", "--recipe", "world", *SMALL, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "vila2cli", *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (stage,) = json.loads(done.stdout)["stages"]
    assert (stage["name"], stage["due"]) == ("world", "data/world/world.json is missing")
    assert "world: done (data/world)" in done.stderr
    again = [sys.executable, "-m", "vila2cli", *words]
    quiet = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(quiet.stdout)["stages"][0]["due"] is None


def test_what_wrote_shards_is_counted_in_a_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, pairs = tmp_path / "photos", str(tmp_path / "pairs")
    photos.mkdir()
    Image.new("RGB", (8, 8), "red").save(photos / "red.png")
    (photos / "red.txt").write_text("all of it is red")
    for stage, words in {
        "convert": ["convert", "folder", str(photos), "--out", pairs],
        "merge": ["merge", pairs, "--out", str(tmp_path / "merged")],
        "export": ["export", "jsonl", pairs, "--out", str(tmp_path / "rows")],
    }.items():
        assert main(["shards", *words, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["stage"], document["out_dir"]) == (stage, words[-1])
        assert (document["in"], document["out"], document["dropped"]) == (1, 1, {})
        assert "fewer_tiles" not in document
