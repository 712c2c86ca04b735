"""A run of native resolution, small: pictures of every shape go through every stage."""

import io
import json
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from native_bases import settings_of
from vila2cli.cli.app import main
from vila2cli.files import read_json
from vila2cli.model.checkpoint import LINEAGE_FILE
from vila2cli.shards import TarWriter
from zoo import picture

pytestmark = pytest.mark.torchvision
SIZES = {
    "banner": (5000, 300),
    "column": (300, 5000),
    "small": (10, 10),
    "dot": (1, 1),
    "strip": (4000, 10),  # the stock processor takes none beyond an aspect of 200, decoding leaves 100
    **{f"usual{i}": (90 + 20 * i, 120 - 10 * i) for i in range(7)},
}
STAGES = (
    "pretrain --round 0",
    "sft --round 0",
    "eval --round 0",
    "recaption --round 1",
    "filter --round 1",
    "pretrain --round 1",
    "sft --round 1",
    "judge --round 1",
    "specialize --name ocr",
    "specialize --name ocr --relabel",
    "pretrain --round final",
)


RECIPE = """
name = "native"
rounds = 1
runs_dir = "{folder}/runs"
[base]
architecture = "{base.architecture}"
vision_tower = "{base.vision_tower}"
llm = "{base.llm}"
projector = "mlp"
pixels = {{ min = {base.pixels.min}, max = {base.pixels.max} }}
[data]
pretrain = "{folder}/data"
sft = "{folder}/data"
[recaption]
engine = "hf"
max_new_tokens = 4
max_reject_rate = 1.0
retry_temperatures = []
[pretrain]
align = {{ batch_size = 4, max_reject_rate = 0.1 }}
main = {{ batch_size = 4, max_reject_rate = 0.1, packing = true, pack_length = 300 }}
[sft]
batch_size = 4
max_reject_rate = 0.1
[filter]
overlap = "none"
duplicates = "none"
engine = "hf"
max_reject_rate = 1.0
[judge]
engine = "hf"
judges = "model"
max_new_tokens = 2
num_samples = 12
[eval]
engine = "hf"
tasks = "{folder}/data"
max_new_tokens = 2
num_bootstrap = 20
[specialists.ocr]
data = "{folder}/data"
prompts = "ocr-v1"
questions = "ocr"
batch_size = 4
max_new_tokens = 4
checks = []
max_reject_rate = 0.1
"""


def write_shards(folder: Path) -> None:
    (folder / "task.toml").write_text('answer_type = "yesno"\n')
    with TarWriter(folder / "000000.tar") as tar:
        for number, (name, size) in enumerate(SIZES.items()):
            stream = io.BytesIO()
            picture(number).resize(size).save(stream, "PNG")
            turns = [{"role": "user", "content": "<image>Is it red?"}, {"role": "assistant", "content": "yes"}]
            meta = {"question": "Is it red?", "answers": ["yes"], "messages": turns}
            tar.write_sample(
                name, {"png": stream.getvalue(), "txt": b"A disc.", "json": json.dumps(meta).encode()}
            )


@pytest.fixture(scope="module", params=["qwen2_5_vl"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    (folder / "data").mkdir()
    write_shards(folder / "data")
    base = settings_of(request.param, folder)
    (folder / "recipe.toml").write_text(RECIPE.format(folder=folder, base=base))
    for words in STAGES:
        assert main([*words.split(), "--recipe", str(folder / "recipe.toml")]) == 0, words
    return folder / "runs" / "native"


@pytest.mark.parametrize(
    "stage",
    ["round0/pretrain", "round0/sft", "round1/pretrain", "specialists/ocr/checkpoint", "final/pretrain"],
)
def test_pictures_of_every_shape_are_trained_on(run: Path, stage: str) -> None:
    made = read_json(run / stage / LINEAGE_FILE)
    assert made["num_rejected"] == 0
    for phase in made["phases"]:
        assert {source["samples"] for source in phase["sources"].values()} == {len(SIZES)}


@pytest.mark.parametrize("stage", ["round1/recaption", "round1/filter", "specialists/ocr/relabel"])
def test_pictures_of_every_shape_are_asked_about(run: Path, stage: str) -> None:
    summary = read_json(run / stage / "summary.json")
    dropped = [json.loads(line) for line in (run / stage / "rejects.jsonl").read_text().splitlines()]
    assert summary["in"] == len(SIZES)
    assert {one["reason"] for one in dropped} <= {"repetition", "empty", "truncated", "too-short"}, dropped


def test_questions_are_answered_and_captions_compared(run: Path) -> None:
    metrics = read_json(run / "round0" / "eval" / "metrics.json")
    assert metrics["num_rejected"] == 0
    judged = read_json(run / "round1" / "judge" / "summary.json")["judges"]["model"]
    assert judged["wins"] + judged["losses"] + judged["ties"] + judged["unjudged"] > 0


def test_check_tells_the_tokens_of_a_picture(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--recipe", str(run.parents[1] / "recipe.toml")]) == 0
    text = capsys.readouterr().out
    assert "processor: 1,024 to 16,384 pixels a picture, about 64 tokens at most" in text


def test_the_checkpoint_keeps_its_bounds(run: Path) -> None:
    soup = ["--models", *(str(run / f"round{i}" / "sft") for i in (0, 1)), "--out", str(run / "soup")]
    assert main(["soup", *soup, "--set", "soup.method=uniform"]) == 0
    for stage in ("round0/pretrain", "round1/sft", "soup"):
        size = AutoProcessor.from_pretrained(run / stage).image_processor.size
        assert (size.shortest_edge, size.longest_edge) == (1024, 16384)
        assert AutoModelForImageTextToText.from_pretrained(run / stage)
    made = read_json(run / "round0" / "pretrain" / LINEAGE_FILE)
    assert made["base_settings"]["pixels"] == {"min": 1024, "max": 16384}
