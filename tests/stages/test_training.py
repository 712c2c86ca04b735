"""The training stages on a small world: pretrain, sft, specialists, and what they refuse."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from vila2cli.errors import DataError, RecipeError, RejectBudgetError
from vila2cli.model.build import build
from vila2cli.model.scratch import refuse_trained
from vila2cli.run.folder import RunFolder
from vila2cli.run.workers import Worker
from vila2cli.settings.recipe import Recipe, load_recipe
from vila2cli.shards import TarWriter, open_source, read_shard
from vila2cli.shards.sample import Reject
from vila2cli.stages.filter import filter_samples
from vila2cli.stages.lineage import lineage as origins
from vila2cli.stages.pretrain import pretrain
from vila2cli.stages.recaption import recaption
from vila2cli.stages.sft import sft
from vila2cli.stages.specialize import Answering, relabel, specialize
from vila2cli.world.write import write_world

SIZES = {"pretrain": 48, "interleaved": 6, "text": 8, "sft": 12, "specialist": 12, "dev": 2, "eval": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def recipe(root: Path) -> Recipe:
    data = root / "data"
    table = f"""
        name = "small"
        runs_dir = "{root}/runs"
        recaption.engine = "hf"
        recaption.max_new_tokens = 16
        recaption.max_reject_rate = 1.0
        pretrain.align = {{ max_samples = 16, batch_size = 8 }}
        pretrain.main = {{ learning_rate = 5e-4, batch_size = 16, cache_features = true }}
        sft = {{ learning_rate = 3e-4, batch_size = 8, micro_batch_size = 3 }}
        world.samples_per_shard = 16
        specialists.ocr.data = "{data}/specialist-ocr"
        specialists.ocr.prompts = "ocr-v1"
        specialists.ocr.questions = "ocr"
        specialists.ocr.batch_size = 8
        specialists.ocr.max_new_tokens = 8
        data.pretrain = "{data}/pretrain/*.tar"
        data.interleaved = "{data}/interleaved"
        data.sft = "{data}/sft"
        data.text = "{data}/text"
        world.num_pretrain = {SIZES["pretrain"]}
    """
    path = root / "recipe.toml"
    lines = [line.strip() for line in table.splitlines()]
    lines += [f"world.num_{name} = {num}" for name, num in SIZES.items() if name != "pretrain"]
    path.write_text("\n".join(lines))
    loaded = load_recipe(path)
    write_world(loaded, data)
    return loaded


@pytest.fixture(scope="module")
def pretrained(recipe: Recipe, root: Path) -> Path:
    out = root / "pretrain"
    pretrain(recipe, shards=None, out=out, round=0)
    return out


@pytest.fixture(scope="module")
def tuned(recipe: Recipe, root: Path, pretrained: Path) -> Path:
    out = root / "sft"
    sft(recipe, model=str(pretrained), shards=None, out=out, round=0)
    return out


@pytest.fixture(scope="module")
def captioned(recipe: Recipe, root: Path, tuned: Path) -> Path:
    out = root / "recaption"
    recaption(recipe, shards=recipe.data.pretrain, model=tuned, out=out, round=1)
    return out


def lineage(folder: Path) -> dict:
    return json.loads((folder / "vila2.json").read_text())


def test_checkpoints_are_stock_folders_without_pickles(pretrained: Path, tuned: Path) -> None:
    for folder in (pretrained, tuned):
        model = AutoModelForImageTextToText.from_pretrained(folder)
        assert type(model).__name__ == "Idefics3ForConditionalGeneration"
        assert AutoProcessor.from_pretrained(folder).chat_template
        assert {path.suffix for path in folder.iterdir()} <= {
            ".json",
            ".jsonl",
            ".safetensors",
            ".jinja",
            ".toml",
        }
        assert not folder.with_name(f"{folder.name}.partial").exists()


def test_lineage_says_what_was_trained_on_what(pretrained: Path, tuned: Path) -> None:
    made = lineage(pretrained)
    assert [phase["phase"] for phase in made["phases"]] == ["align", "main"]
    assert made["phases"][0]["sources"]["pretrain"]["samples"] == 16
    assert set(made["phases"][1]["sources"]) == {"pretrain", "interleaved"}
    assert made["bases"]["llm"]["sha256"]
    assert lineage(tuned)["parent"]["path"] == str(pretrained)
    assert set(lineage(tuned)["phases"][0]["sources"]) == {"sft", "text"}


def test_the_next_round_reads_captions_over_the_same_pictures(
    recipe: Recipe, root: Path, captioned: Path, pretrained: Path
) -> None:
    out = root / "pretrain1"
    pretrain(recipe, shards=sorted(map(str, captioned.glob("*.tar.gz"))), out=out, round=1)
    made, before = lineage(out), lineage(pretrained)
    assert made["layers"] == ["recaption"]
    assert made["bases"] == before["bases"]
    tokens = [phase["sources"]["pretrain"]["tokens"] for phase in (made["phases"][1], before["phases"][1])]
    assert tokens[0] > tokens[1]
    tree = list(origins(out).walk())
    assert {node.status for node in tree} <= {"", "seen"}
    assert [node.path for node in tree if node.role == "written by"] == [str(root / "sft")]
    assert [node.path for node in tree if node.kind == "shards"].count(str(root / "data" / "pretrain")) >= 3


def test_a_copy_of_a_trained_model_is_no_base(recipe: Recipe, root: Path, pretrained: Path) -> None:
    bases = Path(build.__code__.co_filename).parents[1] / "world" / "bases"
    run = RunFolder(root / "guarded")
    made = shutil.copytree(pretrained, run.stage("pretrain", 0))
    fresh = {"llm": bases / "llm", "vision_tower": bases / "tower"}
    refuse_trained(fresh, run, is_later_round=True)
    for ours in ("model.safetensors", "weights.safetensors"):
        copy = shutil.copytree(bases / "llm", root / f"copy-{ours}")
        (copy / "model.safetensors").unlink()
        shutil.copyfile(made / "model.safetensors", copy / ours)
        with pytest.raises(RecipeError, match=r"base\.llm = .*is a copy of .*guarded/round0/pretrain"):
            refuse_trained({"llm": copy}, run, is_later_round=False)
    other = shutil.copytree(bases / "llm", root / "other-llm")
    tensors = load_file(other / "model.safetensors")
    save_file({k: v * 2 for k, v in tensors.items()}, other / "model.safetensors", metadata={"format": "pt"})
    refuse_trained({"llm": other}, run, is_later_round=False)
    with pytest.raises(RecipeError, match="is not what round 0 started from"):
        refuse_trained({"llm": other}, run, is_later_round=True)


def test_a_round_does_not_start_from_another_rounds_weights(recipe: Recipe, root: Path, tuned: Path) -> None:
    reused = recipe.model_copy(update={"base": recipe.base.model_copy(update={"llm": str(tuned)})})
    with pytest.raises(RecipeError, match=r"base\.llm = .*was trained by vila2"):
        pretrain(reused, shards=None, out=root / "never", round=1)
    assert not (root / "never").exists()


def test_a_specialists_answers_become_question_answer_turns(
    recipe: Recipe, root: Path, pretrained: Path
) -> None:
    specialist, layer = root / "ocr", root / "ocr-layer"
    specialize(recipe, name="ocr", model=str(pretrained), out=specialist)
    for index in (1, 0):
        worker = Worker(index, 2)
        answering = Answering("ocr", str(specialist), layer)
        (summary,) = relabel(recipe, [answering], shards=recipe.data.pretrain, worker=worker)
    assert summary.num_in == SIZES["pretrain"] == summary.num_out + sum(summary.dropped.values())
    rejects: list[Reject] = []
    source = open_source([str(layer)])
    samples = [s for shard in source.shards for s in read_shard(shard, on_reject=rejects.append)]
    answered = [s.annotation("ocr") for s in samples if s.annotation("ocr")]
    assert len(answered) == summary.num_out
    for annotation in answered:
        assert [turn.role for turn in annotation.turns] == ["user", "assistant"]
        assert annotation.prompt_id == "ocr-v1"
        assert annotation.model_sha256
        assert annotation.image_sha256


def test_an_answer_that_breaks_a_rule_is_left_out_and_counted(
    recipe: Recipe, root: Path, pretrained: Path
) -> None:
    strict = load_recipe(recipe.path, ["specialists.ocr.checks=some-box", "specialists.ocr.relabel_share=0.5"])
    answering = Answering("ocr", str(pretrained), root / "strict-layer")
    (summary,) = relabel(strict, [answering], shards=recipe.data.pretrain)
    assert (summary.num_out, summary.kept_share) == (0, 0.0)
    assert summary.num_asked == summary.num_in - summary.dropped["not-selected"] > 0
    assert summary.dropped["no-box"] == summary.num_asked - summary.num_rejected > 0


def test_an_unknown_specialist_is_refused(recipe: Recipe, root: Path) -> None:
    with pytest.raises(RecipeError, match=r"no \[specialists.depth\]; it has ocr"):
        specialize(recipe, name="depth", model="anywhere", out=root / "x")


def test_too_many_unusable_samples_stop_the_stage(recipe: Recipe, root: Path) -> None:
    with TarWriter(root / "empty" / "000000.tar") as tar:
        for i in range(10):
            picture = (root / "data" / "pretrain" / "000000.tar").read_bytes()[1536:1600]
            tar.write_sample(f"{i:03d}", {"jpg": picture, "txt": b"a red circle"})
    with pytest.raises(RejectBudgetError, match=r"10 of 10 .* than pretrain\.align\.max_reject_rate"):
        pretrain(recipe, shards=[str(root / "empty")], out=root / "unusable", round=0)
    assert not (root / "unusable").exists()


def test_a_sample_of_no_use_to_two_phases_is_counted_once(recipe: Recipe, root: Path, tmp_path: Path) -> None:
    (shard,) = list(open_source(recipe.data.pretrain).shards)[:1]
    usable = next(sample for sample in read_shard(shard, on_reject=lambda reject: None))
    with TarWriter(tmp_path / "data" / "000000.tar") as tar:
        for i in range(8):
            picture = usable.images[0].data if i != 5 else b"no picture"
            tar.write_sample(f"{i:03d}", {"jpg": picture, "txt": b"a red circle"})
    sets = ["data.interleaved=[]", "pretrain.align.max_reject_rate=1", "pretrain.main.max_reject_rate=1"]
    out = tmp_path / "pretrain"
    made = load_recipe(root / "recipe.toml", sets)
    summary = pretrain(made, shards=[str(tmp_path / "data")], out=out, round=0).to_json()
    assert [phase["sources"]["pretrain"]["rejected"] for phase in summary["phases"]] == [1, 1]
    (line,) = (out / "rejects.jsonl").read_text().splitlines()
    assert (json.loads(line)["key"], summary["num_rejected"]) == ("005", 1)


def test_an_output_that_is_there_is_not_overwritten(recipe: Recipe, pretrained: Path) -> None:
    with pytest.raises(DataError, match="is there already"):
        pretrain(recipe, shards=None, out=pretrained, round=0)


def test_pretraining_leaves_out_what_a_filter_layer_drops(
    recipe: Recipe, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["filter.scores=[]", "filter.keep_share=1", "filter.min_words=6", "filter.overlap=none"]
    kept = filter_samples(
        load_recipe(root / "recipe.toml", sets), shards=recipe.data.pretrain, out=tmp_path / "filter"
    )
    assert 0 < kept.dropped["too-short"] < SIZES["pretrain"]
    summary = pretrain(recipe, shards=[str(tmp_path / "filter")], out=tmp_path / "pretrain", round=0).to_json()
    main = summary["phases"][-1]["sources"]
    assert (main["pretrain"]["samples"], main["pretrain"]["filtered"]) == (
        kept.num_out,
        kept.num_in - kept.num_out,
    )
    assert (main["interleaved"]["filtered"], summary["num_rejected"]) == (0, 0)
    assert f"({kept.num_in - kept.num_out:,} filtered out)" in capsys.readouterr().err


def test_samples_longer_than_the_context_are_told_of(
    recipe: Recipe, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = Path(shutil.copytree(pretrained, tmp_path / "short"))
    config = json.loads((short / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 64
    (short / "config.json").write_text(json.dumps(config))
    for model, is_told in ((short, True), (pretrained, False)):
        sft(recipe, model=model, shards=None, out=tmp_path / f"sft-{is_told}", round=0)
        told = capsys.readouterr().err
        assert ("the language model was made for 64; lower sft.max_length" in told) == is_told
