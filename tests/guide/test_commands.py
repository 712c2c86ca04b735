"""Every command line of the guide is run, in a folder with what it names, but for those that say why not."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import PAGES, Block, blocks, without_variables
from place import make_place

from vila2cli.cli.app import main

TINY = {
    "recaption.max_reject_rate": "1.0",
    "recaption.max_new_tokens": "8",
    "eval.max_new_tokens": "2",
    "eval.num_bootstrap": "20",
    **{f"world.num_{name}": "2" for name in ("dev", "interleaved", "text", "sft", "specialist")},
}
"""Little work, and captions of an untrained model are taken, which all have defects."""
_TAKES_SETTINGS = ("world", "recaption", "filter", "judge", "eval", "soup", "specialize")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, real_data: Path, tiny_checkpoint: Path) -> Path:
    """Photographs, and all that the commands make of them elsewhere in the guide."""
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("guide")
    make_place(folder, real_data, tiny_checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        call(["sft", "--recipe", "my.toml", "--model", "ckpt/r2", "--out", "ckpt/r3"])
        for name in ("r2", "r3"):
            call(["recaption", "--model", f"ckpt/{name}", "--shards", "data/*.tar", "--out", name])
    return folder


@pytest.fixture
def own_place(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the place, made the current folder."""
    folder = tmp_path / "place"
    shutil.copytree(place, folder, copy_function=os.link)
    monkeypatch.chdir(folder)
    return folder


def call(words: list[str]) -> int:
    """Run a command of ours, with the settings that untrained models need."""
    sets = [f"{key}={value}" for key, value in TINY.items() if not any(word.startswith(key) for word in words)]
    flags = [word for one in sets for word in ("--set", one)] if words[0] in _TAKES_SETTINGS else []
    takes_none = len(words) > 1 and words[1] in ("import", "new", "collect", "agreement", "compare", "lmms")
    return main([*words, *([] if takes_none or "--recipe" in words else flags)])


def expanded(line: str) -> tuple[dict[str, str], list[str]]:
    """Variables and words of a line as the shell makes them of it."""
    variables, _ = without_variables(shlex.split(line))
    text = re.sub(r"^(?:[A-Z][A-Z0-9_]*=\S*\s+)*", "", line)
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {text.partition(' > ')[0]}"], capture_output=True, check=True
    )
    return variables, done.stdout.decode().split("\0")[:-1]


def run(line: str, patch: pytest.MonkeyPatch, said: Callable[[], str]) -> tuple[int, str]:
    """Run a line as the shell would; the code it exits with, and what it says."""
    variables, words = expanded(line)
    assert words[0] == "vila2", f"{line}: say above the block why it is not run"
    with patch.context() as around:
        for name, value in variables.items():
            around.setenv(name, value)
        said()
        code = call(words[1:])
    text = said()
    if " > " in line:
        Path(line.rpartition(" > ")[2].strip()).write_text(text)
    return code, text


def outputs(found: list[Block]) -> list[str]:
    lines = " ".join(line for block in found for line in block.commands())
    return re.findall(r"--out (\S+)", lines)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "bash", "sh", "console")], ids=lambda p: p.name
)
def test_the_commands_of_a_page(
    page: Path, own_place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def said() -> str:
        return "".join(reversed(capfd.readouterr()))

    shown = [block for block in blocks(page, "bash", "sh", "console") if block.is_run]
    for out in outputs([block for block in shown if block.language != "console"]):
        shutil.rmtree(out, ignore_errors=True)
    for block in shown:
        if block.language == "console":
            check_shown(block, monkeypatch, said)
            continue
        for line in block.commands():
            code, text = run(line, monkeypatch, said)
            assert code == 0, f"{block}: {line}\n{text}"


def check_shown(block: Block, patch: pytest.MonkeyPatch, said: Callable[[], str]) -> None:
    """What a block shows as printed is printed, in this order; `...` stands for anything."""
    for part in block.text.split("$ ")[1:]:
        line, _, printed = part.partition("\n")
        _, text = run(line, patch, said)
        pattern = re.escape(printed.strip()).replace(re.escape("..."), ".*")
        assert re.search(pattern, text, re.DOTALL), f"{block}: {line}\n{text}"
