"""What commands say of hostile names and texts: nothing that a terminal obeys, and no more than it can show."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vila2cli.cli.app import main
from vila2cli.cli.terminal import complain, say
from vila2cli.run.folder import write_json
from vila2cli.shards import TarWriter, open_layer, open_source
from vila2cli.shards.sample import Annotation, Turn
from vila2cli.text.printable import MAX_LINE

OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u200b\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
NAME = "n\x1b[31m\x9b\u202e<b>[red]\nvila2: all is well"
TEXT = f"{NAME}\x1b]8;;http://x.org\x07y\x1b]52;c;aGk=\x07\x1bP+q\x1b\\\u2028\u200b\u2066\x00"
MORE = 60
"""Characters that may stand around a text that was cut."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base and a layer whose folders, shard, keys and texts are all hostile, in the current folder."""
    monkeypatch.chdir(tmp_path)
    base = Path(f"data{NAME}")
    with TarWriter(base / f"{NAME}.tar") as tar:
        tar.write_sample(NAME, {"jpg": b"broken", "txt": TEXT.encode(), "json": b"{}"})
        tar.write_sample("k" * 100_000, {"txt": b"w" * 100_000})
        tar.write_sample("q" * 100_000, {"json": b"{"})
    source = open_source([str(base)])
    layer = open_layer(Path(f"layer{NAME}"), layer=TEXT, source=source)
    with layer.shard(source.shards[0]) as out:
        for sample in out.samples():
            annotation = Annotation(
                layer=TEXT,
                kind="turns",
                turns=(Turn("user", TEXT), Turn("assistant", "w" * 100_000)),
                model=TEXT,
                scores={TEXT: 1.0},
                image_sha256=sample.image_sha256,
            )
            out.annotate(sample, annotation)
    layer.finish()
    write_json(Path(f"layer{NAME}") / "summary.json", {"model": "w" * 100_000, "model_sha256": TEXT})
    return tmp_path


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["shards", "show", f"layer{NAME}"], 0),
        (["shards", "check", f"layer{NAME}"], 4),
        (["shards", "stats", f"layer{NAME}"], 0),
        (["shards", "merge", f"data{NAME}", "--out", f"merged{NAME}"], 0),
        (["shards", "convert", "llava", f"data{NAME}/{NAME}.tar", "--out", f"out{NAME}"], 4),
        (["lineage", f"layer{NAME}"], 0),
        (["report", f"data{NAME}"], 4),
        (["report", "--card", f"layer{NAME}"], 0),
        (["runs", f"data{NAME}"], 4),
        (["recaption", "--shards", f"data{NAME}", "--model", NAME, "--out", f"r{NAME}", "--dry-run"], 0),
        (["eval", "--model", NAME, "--tasks", f"data{NAME}", "--out", f"e{NAME}", "--dry-run"], 4),
        (["soup", "--models", NAME, TEXT, "--out", f"s{NAME}", "--dry-run"], 0),
        (["slurm", "emit", "round0", "--out", f"j{NAME}"], 0),
        (["world", "--dry-run", "--out", f"w{NAME}"], 0),
        (["recaption", "--round", TEXT], 2),
    ],
)
def test_no_command_lets_a_name_or_text_steer_the_terminal(
    folder: Path, command: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.replace("\x00", "") for word in command]) == code
    said = capsys.readouterr()
    lines = (said.out + said.err).splitlines()
    assert lines
    assert not [line for line in lines if OBEYED.search(line)]
    assert "vila2: all is well" not in lines
    assert max(map(len, lines)) < MAX_LINE + MORE + 2_000  # a sample's texts are cut one by one


def test_json_for_other_programs_is_whole_and_cannot_steer_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lineage", "--json", f"layer{NAME}"]) == 0
    text = capsys.readouterr().out
    assert not OBEYED.search(text)
    assert "w" * 100_000 in text


def test_a_line_says_how_much_of_it_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    say("\u202e" * 100_000, "x" * 10)
    first, second = capsys.readouterr().out.splitlines()
    assert len(first) < MAX_LINE + MORE
    assert first.endswith(" more characters)")
    assert second == "x" * 10


def test_lines_of_an_error_cannot_pass_for_others(capsys: pytest.CaptureFixture[str]) -> None:
    complain("2 problems:\n  a.toml:1\nvila2: all is well\x1b[2J")
    assert capsys.readouterr().err.splitlines() == [
        "vila2: 2 problems:",
        "  a.toml:1",
        "  vila2: all is well\\x1b[2J",
    ]


def process(code: str, *words: str, **environ: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, check=False, env=os.environ | environ)


def test_a_terminal_that_lacks_a_letter_gets_an_escape(tmp_path: Path) -> None:
    with TarWriter(tmp_path / "0.tar") as tar:
        tar.write_sample("ü", {"txt": "図 café".encode()})
    run = "from vila2cli.__main__ import run; run()"
    done = process(run, "shards", "show", str(tmp_path), PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [b"0/\xfc", b"  original: \\u56f3 caf\xe9"]


def test_the_traceback_of_a_defect_cannot_steer_the_terminal() -> None:
    code = "import vila2cli.cli.app as c, vila2cli.__main__ as m\n"
    code += "def bad(): raise ValueError('\\x1b[2J\\u202e caption')\n"
    code += "c.main = bad\nm.run()"
    done = process(code)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == b"ValueError: \\x1b[2J\\u202e caption"


def test_a_name_that_is_not_utf8_stops_no_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / os.fsdecode(b"d\xff\x9b")
    layers = []
    with TarWriter(base / "0.tar") as tar:
        tar.write_sample("a", {"jpg": picture(), "txt": b"a dog"})
    source = open_source([str(base)])
    for name in ("one", "two"):
        layer = open_layer(base / name, layer="recaption", source=source)
        layers.append(str(base / name))
        with layer.shard(source.shards[0]) as out:
            for sample in out.samples():
                caption = Annotation(
                    layer="recaption", kind="caption", text=name, image_sha256=sample.image_sha256
                )
                out.annotate(sample, caption)
        layer.finish()
    assert main(["judge", "--human", "--layers", *layers, "--out", str(base / "people")]) == 0
    assert main(["report", "--card", layers[0]]) == 0
    assert "d\\udcff\\udc9b" in capsys.readouterr().out


def picture() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (8, 6), "#c03020").save(stream, "JPEG")
    return stream.getvalue()
