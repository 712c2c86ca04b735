"""Tars without any file, as img2dataset leaves where nothing could be downloaded, among those of a stage."""

import json
from pathlib import Path

import pytest

from archives import jpeg, write_tar
from vila2cli.cli.app import main

NUM_EMPTY = 4
SMALL = ["--set", "recaption.engine=hf", "--set", "recaption.max_new_tokens=4"]
SMALL += ["--set", "recaption.max_reject_rate=1", "--set", "judge.engine=hf", "--set", "judge.max_new_tokens=4"]
NOTED = "empty shard: the archive holds no files"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two shards of a sample each, and four empty ones between them: more than may fail in a row."""
    monkeypatch.chdir(tmp_path)
    for number in range(NUM_EMPTY + 2):
        keys = [str(number)] if number in (0, NUM_EMPTY + 1) else []
        members = [(f"{key}.jpg", jpeg()) for key in keys] + [(f"{key}.txt", b"a red square") for key in keys]
        write_tar(tmp_path / f"data/{number:05}.tar", sorted(members))
    write_tar(tmp_path / "empty/00000.tar", [])
    return tmp_path


def test_recaption_judge_and_what_reads_layers_finish(
    place: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(tiny_checkpoint), *SMALL]
    line = ["recaption", "--shards", "data/*.tar", "--out", "r1", *model]
    assert main(line) == 0
    assert f"(6 of 6 shards); dropped: none; {NUM_EMPTY} empty shards" in capsys.readouterr().out
    stats = [json.loads(path.read_text()) for path in (place / "r1").glob("0*.stats.json")]
    assert sum(one.get("notes") == [NOTED] for one in stats) == NUM_EMPTY
    assert json.loads((place / "r1/summary.json").read_text())["empty_shards"] == NUM_EMPTY
    assert main(line) == 0
    assert "complete, nothing to do" in capsys.readouterr().out
    assert main(["shards", "merge", "r1", "--out", "merged"]) == 0
    assert f"2 of 2 samples; dropped: none; {NUM_EMPTY} empty shards" in capsys.readouterr().out
    for form in ("parquet", "jsonl", "llava", "vila"):
        assert main(["shards", "export", form, "r1", "--out", form]) == 0
        assert f"2 of 2 samples; dropped: none; {NUM_EMPTY} empty shards" in capsys.readouterr().out
    assert main(["judge", "--layers", "alt-text", "r1", "--out", "j", *model]) == 0
    assert json.loads((place / "j/summary.json").read_text())["num_drawn"] == 2


def test_a_filter_and_a_training_pass_over_them(
    place: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["filter", "--shards", "data", "--out", "f", "--where", "width >= 1"]) == 0
    assert f"kept 2 of 2 samples; dropped: none; {NUM_EMPTY} empty shards" in capsys.readouterr().out
    sets = ["--set", "base.dtype=float32", "--set", "sft.batch_size=2"]
    line = ["sft", "--model", str(tiny_checkpoint), "--shards", "data", "--out", "sft", *sets]
    assert main(line) == 0
    assert "sft: 2 samples" in capsys.readouterr().out


def test_check_tells_of_them_in_a_note(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "check", "data"]) == 0
    said = capsys.readouterr().out
    assert "no problems\n" in said
    assert f"note: {NUM_EMPTY} shards without any file, which every stage passes over; first 00001\n" in said
    assert main(["shards", "check", "empty"]) == 4
    assert "1 empty-shard" in capsys.readouterr().err


def test_a_training_that_is_done_says_so(
    place: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["--set", "base.dtype=float32", "--set", "sft.batch_size=2"]
    line = ["sft", "--model", str(tiny_checkpoint), "--out", "sft", *sets, "--shards"]
    assert main([*line, "data"]) == 0
    capsys.readouterr()
    assert main([*line, "data/*.tar"]) == 0
    assert capsys.readouterr().out == "sft: complete, nothing to do (sft)\n"
    assert main([*line, "data/00000.tar"]) == 2
    assert "sft was made with other settings: other shards in sft (6, now 1)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "recaption --shards empty --out out",
        "filter --shards empty --out out --where width>=1",
        "shards merge empty --out out",
        "shards export jsonl empty --out out",
    ],
)
def test_nothing_but_empty_shards_is_an_error_each_time(
    place: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    model = ["--model", str(tiny_checkpoint), *SMALL] if line.startswith("recaption") else []
    for _ in range(2):
        assert main([*line.split(), *model]) == 4
        assert "there is no sample in" in capsys.readouterr().err
