"""The one registry of foreign formats: every reader is there, and a wrong name is answered."""

import subprocess
import sys

import pytest

from vila2cli.cli.app import main
from vila2cli.errors import RecipeError
from vila2cli.formats.registry import FORMATS, find_format, names


@pytest.mark.parametrize("command", FORMATS)
def test_every_format_has_a_name_of_its_own_and_a_reader(command):
    assert len(set(names(command))) == len(FORMATS[command])
    for form in FORMATS[command]:
        # What `vila2 shards merge` writes is exported by it.
        assert callable(form.load()) if form.reader else form.name == "webdataset"
        assert not form.reader or form.load().__doc__ or command == "shards convert"
        assert find_format(command, form.name) is form


@pytest.mark.parametrize("command", FORMATS)
def test_help_names_every_format(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert ", ".join(names(command)) in printed


@pytest.mark.parametrize(
    ("command", "name", "hint"),
    [
        ("eval import", "popé", "did you mean pope"),
        ("eval import", "textocr", "vila2 shards build reads it, vila2 eval import reads vqav2, "),
        ("shards build", "lllines", "did you mean lines"),
        ("shards convert", "laion", "known are folder, csv, llava, coco"),
    ],
)
def test_an_unknown_name_is_answered(command, name, hint):
    with pytest.raises(RecipeError, match=hint):
        find_format(command, name)


@pytest.mark.parametrize(
    "words",
    [
        ["shards", "convert", "popes", "x.json"],
        ["shards", "build", "ocr", "--format", "popes", "--annotations", "x.json"],
        ["eval", "import", "popes", "x.json"],
    ],
)
def test_the_commands_ask_the_registry(words, tmp_path, capsys):
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "unknown format 'popes'" in capsys.readouterr().err


def test_naming_formats_loads_no_reader():
    code = (
        "import sys, vila2cli.formats.registry\n"
        "sys.exit(any('formats.' in name and 'registry' not in name for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
