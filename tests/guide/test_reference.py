"""The guide against the code: every key, command, option, path, recipe and message that it names."""

import ast
import json
import re
import shlex
from functools import cache
from pathlib import Path

import click
import pytest
from pages import DOCS, PAGES, REPO, Block, blocks, code_in_text, without_variables
from reference import PAGE, keys, written
from typer.core import TyperGroup

from vila2cli.cli.app import program
from vila2cli.cli.options import spread
from vila2cli.settings import describe
from vila2cli.settings.recipe import load_recipe

BENCHMARKS = sorted((REPO / "benchmarks").glob("*.py"))
LAUNCHERS = ("torchrun", "srun", "accelerate", "bash", "ssh")


def every(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page, *languages)]


def test_the_reference_is_that_of_the_settings() -> None:
    page = PAGE.read_text()
    assert page == written(page), "run python tests/guide/reference.py"


def test_the_reference_has_each_key_of_each_table_once() -> None:
    found = [f"{table}.{key.name}".removeprefix(".") for key in keys() for table in key.defaults]
    assert sorted(found) == sorted(path for path, *_ in describe())
    assert len(keys()) == len({(key.name, key.kind, key.doc) for key in keys()})


def test_every_command_has_a_page_that_the_table_of_commands_links() -> None:
    table = (DOCS / "stages" / "index.md").read_text()
    missing = [name for name in program().commands if f"[`vila2 {name}`](" not in table]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_fit_the_commands(page: Path) -> None:
    """Those that are run, too: here each is parsed, whatever it needs."""
    for block in blocks(page, "bash", "sh"):
        for line in block.commands():
            assert parses(line), f"{block}: {line}"
    for block in blocks(page, "console"):
        for line in block.text.splitlines():
            assert not line.startswith("$ ") or parses(line.removeprefix("$ ")), f"{block}: {line}"


def parses(line: str) -> bool:
    """Whether a line is a command of ours with options that it has, or one of those around them."""
    _, words = without_variables(shlex.split(line, comments=True))
    name, *rest = words
    if name in LAUNCHERS:
        if "vila2" not in words and "vila2cli" not in words:
            return "train.py" in words  # the loop of python.md
        start = words.index("vila2cli" if "vila2cli" in words else "vila2")
        return parse(words[start + 1 :])
    if name == "make":
        return all(target in make_targets() for target in rest if "=" not in target and target[0] != "-")
    if name == "pip":
        return all(extra in extras() for word in rest for extra in re.findall(r"vila2cli\[(\w+)\]", word))
    if name == "python":
        return (REPO / rest[0]).exists() or rest[0] == "train.py"
    return name in ("cd", "mkdir", "git") or (name == "vila2" and parse(rest))


def parse(words: list[str]) -> bool:
    """Parse a command line of ours down to its command; raises click's error for what that does not take."""
    words = spread(words[: words.index(">")] if ">" in words else words)
    command: click.Command = program()
    parent = None
    while True:
        if not words and command.no_args_is_help:
            return False
        context = command.make_context(command.name or "vila2", list(words), parent=parent)
        rest = [*context._protected_args, *context.args]
        if not isinstance(command, TyperGroup) or not rest:
            return True
        _, command, words = command.resolve_command(context, rest)  # type: ignore[assignment]
        parent = context


@cache
def make_targets() -> set[str]:
    found = set(re.findall(r"^(?:# )?([a-z%0-9-]+):.*##", (REPO / "Makefile").read_text(), re.MULTILINE))
    return found | {"round1", "round2", "round3", "roundN"}


@cache
def extras() -> set[str]:
    import tomllib

    return set(tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def test_the_toml_shown_is_a_recipe_or_a_task(tmp_path: Path) -> None:
    from vila2cli.score.task import load_task

    for block in every("toml"):
        if "answer_type" in block.text:
            (tmp_path / "task.toml").write_text(block.text)
            load_task(tmp_path)
            continue
        path = tmp_path / "recipe.toml"
        path.write_text(block.text)
        load_recipe(path)


def test_the_json_shown_is_json() -> None:
    for block in every("json"):
        json.loads(block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_options_and_commands_named_in_the_text_exist(page: Path) -> None:
    tables = {path.split(".")[0] for path, *_ in describe() if "." in path}
    paths = {re.sub(r"\bNAME\b|\bKEY\b", "*", path) for path, *_ in describe()}
    options = all_options(program())
    for code in code_in_text(page):
        if re.fullmatch(r"[a-z_]+(\.[A-Za-z0-9_-]+)+( ?=.*)?", code) and code.split(".")[0] in tables:
            path = re.split(r" ?=", code)[0]
            if not path.endswith((".toml", ".md", ".json", ".jsonl", ".py", ".html", ".sh")):
                assert any(fits(path, known) for known in paths), f"{page.name}: {code}"
        if re.fullmatch(r"--[a-z-]+( .*|=.*)?", code):
            assert re.split(r"[ =]", code)[0] in options, f"{page.name}: {code}"
        if code.startswith("vila2 "):
            assert names_a_command(code.split()[1:]), f"{page.name}: {code}"


def fits(path: str, known: str) -> bool:
    """Whether a path is this key, or a table above it; `*` stands for any name."""
    mine, theirs = path.split("."), known.split(".")
    return len(mine) <= len(theirs) and all(
        one == other or other == "*" or one in ("NAME", "KEY", "STAGE")
        for one, other in zip(mine, theirs, strict=False)
    )


def all_options(group: TyperGroup) -> set[str]:
    found = {"--version", "--help", "--install-completion", "--show-completion"}
    found |= {word for path in BENCHMARKS for word in re.findall(r'"(--[a-z-]+)"', path.read_text())}
    for command in group.commands.values():
        if isinstance(command, TyperGroup):
            found |= all_options(command)
        found |= {option for parameter in command.params for option in parameter.opts}
    return found


def names_a_command(words: list[str]) -> bool:
    command: click.Command = program()
    for word in words:
        if not isinstance(command, TyperGroup) or not word[0].isalpha() or word.isupper():
            return True
        if word not in command.commands:
            return command is not program() and command.invoke_without_command
        command = command.commands[word]
    return True


def test_paths_of_the_repository_that_are_named_exist() -> None:
    for page in PAGES:
        for path in re.findall(r"\b(?:recipes|benchmarks|docs|tests)/[\w./-]+\w", page.read_text()):
            assert (REPO / path).exists(), f"{page.name}: {path}"


@cache
def sentences() -> list[str]:
    """The texts that the code holds."""
    found = []
    for path in (REPO / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_the_messages_explained_are_those_of_the_code() -> None:
    """Lines `vila2: ...` of blocks of text; `...` stands for what differs."""
    lines = [line for block in every("text") for line in block.text.splitlines() if line.startswith("vila2: ")]
    assert len(lines) > 5
    for line in lines:
        for piece in line.removeprefix("vila2: ").split("..."):
            words = piece.strip()
            assert len(words) < 4 or any(words in text for text in sentences()), f"{line}: {words}"


def test_the_readme_is_short_and_the_guide_has_no_lines_too_long_to_edit() -> None:
    assert len((REPO / "README.md").read_text().splitlines()) <= 200
