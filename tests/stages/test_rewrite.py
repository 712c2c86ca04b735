"""From pictures to recaptions to merged captions to what pretraining sees, through the command line."""

import io
import json
import re
import shutil
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
from PIL import Image

from vila2cli.cli.app import main
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter, open_source, read_shard
from vila2cli.shards.sample import Sample
from vila2cli.text.compose import composition_of
from vila2cli.text.invention import inventions

NUM_SHARDS, NUM_SAMPLES = 2, 10
LLM = str(files("vila2cli") / "world" / "bases" / "llm")
SETS = [
    "recaption.engine=hf",
    "recaption.max_new_tokens=24",
    "recaption.max_reject_rate=1",
    "rewrite.engine=hf",
    "rewrite.max_new_tokens=24",
    "rewrite.max_reject_rate=1",
    "rewrite.temperature=0.5",
    "cost.dollars_per_hour=1.5",
]
# Words that the tiny language model likes to say, so that some of its merges are believed.
VOCABULARY = (
    "there is a large small red blue square circle star at the top bottom left right and of image shows"
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for shard in range(NUM_SHARDS):
        with TarWriter(tmp_path / "data" / f"{shard:03}.tar") as tar:
            for number in range(NUM_SAMPLES):
                stream = io.BytesIO()
                Image.new("RGB", (64, 64), (20 * number, 99, 120 * shard)).save(stream, "PNG")
                # What the model says of the second shard's words is invented.
                text = f"{VOCABULARY if shard == 0 else 'stamp'} {number}"
                members = {"png": stream.getvalue(), "txt": text.encode()}
                tar.write_sample(f"{shard}-{number}", members)
        (tmp_path / "data" / f"{shard:03}.stats.json").unlink(missing_ok=True)
    return tmp_path


def vila2(*words: str, sets: tuple[str, ...] = ()) -> int:
    settings = [word for text in (*SETS, *sets) for word in ("--set", text)]
    return main(["recaption", *words, *settings])


def samples(layer: str) -> list[Sample]:
    shards = open_source([layer]).shards
    return [sample for shard in shards for sample in read_shard(shard, on_reject=lambda reject: None)]


def test_captions_are_estimated_written_merged_and_composed(
    data: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = ("--model", str(tiny_checkpoint), "--shards", "data/*.tar", "--out", "r1")
    assert vila2(*described, "--estimate") == 0
    assert "estimate, nothing is written" in capsys.readouterr().out
    assert sorted(path.name for path in data.rglob("*")) == ["000.tar", "001.tar", "data"]
    assert vila2(*described) == 0
    rewritten = ("--rewrite", "--model", LLM, "--shards", "r1", "--out", "w1")
    assert vila2(*rewritten, "--estimate") == 0
    said = capsys.readouterr().out
    assert re.search(r"core-hours and \$[\d.]+ per 1,000 images$", said, re.MULTILINE)
    assert "about 20 samples in 2 shards" in said
    assert not (data / "w1").exists()

    assert vila2(*rewritten) == 0
    assert "rewrite: complete, nothing to do" not in capsys.readouterr().out
    summary = json.loads((data / "w1" / "summary.json").read_text())
    found = samples("w1")
    assert summary["in"] == summary["out"] == len(found) == NUM_SHARDS * NUM_SAMPLES
    sources = Counter(sample.annotation("rewrite").decision["source"] for sample in found)  # type: ignore[union-attr]
    assert sources == summary["kept"]
    assert sources["merged"] > 0
    assert sources["original+recaption"] == sum(summary["fallbacks"].values())
    assert {"new-words", "new-name", "new-number", "new-fact"} & summary["defects"].keys()
    for sample in found:
        annotation = sample.annotation("rewrite")
        assert annotation is not None
        recaption = sample.annotation("recaption")
        assert recaption is not None
        if annotation.decision["source"] == "original+recaption":
            assert annotation.text == f"{sample.text}\n{recaption.text}"
        elif annotation.decision["source"] == "merged":
            assert inventions(annotation.text, [sample.text or "", recaption.text or ""]).kind() is None
        assert annotation.model_sha256 == summary["model_sha256"]
    assert vila2(*rewritten) == 0
    assert "rewrite: complete, nothing to do" in capsys.readouterr().out

    settings = load_recipe(None, ['pretrain.main.captions=["rewrite"]']).pretrain.main
    composed = composition_of(settings, seed=0)
    merged = [sample.annotation("rewrite").text for sample in found]  # type: ignore[union-attr]
    assert [composed.caption(sample) for sample in found] == merged


def test_without_recaptions_there_is_nothing_to_rewrite(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vila2("--rewrite", "--model", LLM, "--shards", "data/*.tar", "--out", "w1") == 4
    assert "these shards have no recaption layer" in capsys.readouterr().err
    assert not (data / "w1").exists()


def test_a_changed_prompt_is_not_taken_for_done(
    data: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", str(tiny_checkpoint), "--shards", "data/000.tar", "--out", "r1")
    mine = ("recaption.prompts=mine", "recaption.retry_temperatures=[]", 'prompts={mine = "Describe it."}')
    assert vila2(*words, sets=mine) == 0
    assert vila2(*words, sets=mine) == 0
    assert "complete, nothing to do" in capsys.readouterr().out
    assert vila2(*words, sets=(*mine[:2], 'prompts={mine = "Describe it well."}')) == 2
    assert "was made with other settings: prompts.mine changed" in capsys.readouterr().err


def test_what_came_through_a_command_is_merged(data: Path, tiny_checkpoint: Path) -> None:
    command = f"pipe:cat {data}/data/{{000..001}}.tar"
    words = ("--model", str(tiny_checkpoint), "--shards", command, "--out", "r1", "--merge")
    assert vila2(*words, sets=("recaption.retry_temperatures=[]",)) == 0
    merged = [
        sample
        for shard in open_source(["r1-merged"]).shards
        for sample in read_shard(shard, on_reject=lambda reject: None)
    ]
    assert len(merged) == NUM_SHARDS * NUM_SAMPLES
    assert all(sample.images and sample.text for sample in merged)


def test_other_inputs_are_not_taken_for_done(
    data: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(model: Path | str = tiny_checkpoint, *words: str) -> tuple[str, ...]:
        return ("--model", str(model), "--shards", "data/000.tar", "--out", "r1", *words)

    sets = ("recaption.retry_temperatures=[]",)
    assert vila2(*command(), sets=sets) == 0
    assert vila2(*command(), sets=sets) == 0
    assert "complete, nothing to do" in capsys.readouterr().out
    other = data / "other"
    shutil.copytree(tiny_checkpoint, other)
    (other / "generation_config.json").write_text('{"eos_token_id": 0}')
    changes = {
        "another model": (command(other), sets),
        "dtype was": (command(), (*sets, "recaption.dtype=bfloat16")),
        "round was": (command(tiny_checkpoint, "--round", "1"), sets),
        "api.image_format was absent": (command("gpt"), (*sets, "recaption.engine=api")),
    }
    for message, (words, changed) in changes.items():
        assert vila2(*words, sets=changed) == 2, message
        assert message in capsys.readouterr().err
    assert vila2(*command("no-such-model"), sets=sets) == 5
    assert "nothing to do" not in capsys.readouterr().out
