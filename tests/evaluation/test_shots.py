"""Few-shot questions: where shots come from, and what is sent."""

import io
import json

import pytest
from PIL import Image

from vila2cli.errors import DataError, RecipeError
from vila2cli.evaluation.shots import open_shots, with_shots
from vila2cli.score.task import load_task
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter, open_source, read_shard
from vila2cli.stages.evaluate import evaluate


def png(number):
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (number, 40, 90)).save(stream, "PNG")
    return stream.getvalue()


def write_split(root, split, numbers):
    folder = root / split / "colour"
    folder.mkdir(parents=True)
    (folder / "task.toml").write_text(f'answer_type = "short"\nsplit = "{split}"\n')
    with TarWriter(folder / "000000.tar") as tar:
        for number in numbers:
            meta = {"question": f"Which number, {number}?", "answers": [str(number), "x", str(number)]}
            tar.write_sample(f"{number:04d}", {"png": png(number), "json": json.dumps(meta).encode()})
    return folder


@pytest.fixture
def task(tmp_path):
    write_split(tmp_path, "dev", range(10, 18))
    return load_task(write_split(tmp_path, "eval", range(20, 24)))


def samples_of(folder):
    return [
        sample
        for shard in open_source([str(folder)]).shards
        for sample in read_shard(shard, on_reject=pytest.fail)
    ]


def test_shots_are_decided_by_seed_and_sample(task, tmp_path):
    def drawn(seed):
        shots = open_shots(task, str(tmp_path / "dev"), 4, seed)
        return [[shot.sample.key for shot in shots.draw(sample)] for sample in samples_of(task.folder)]

    assert drawn(0) == drawn(0) != drawn(1)
    assert all(len(set(keys)) == 4 and set(keys) <= {f"{n:04d}" for n in range(10, 18)} for keys in drawn(0))
    assert len({tuple(keys) for keys in drawn(0)}) > 1


def test_each_question_follows_its_own_picture(task, tmp_path):
    sample = samples_of(task.folder)[0]
    shots = open_shots(task, str(tmp_path / "dev"), 2, 0).draw(sample)
    turns, pictures = with_shots("Which number, 20?", sample, shots)
    assert [turn.role for turn in turns] == ["user", "assistant", "user", "assistant", "user"]
    assert turns[0].text == f"<image>{shots[0].question}"
    assert turns[1].text == shots[0].sample.key.lstrip("0")  # what most people answered
    assert turns[4].text == "<image>Which number, 20?"
    assert pictures == [png(int(shots[0].answer)), png(int(shots[1].answer)), png(20)]


def test_shots_never_come_from_what_is_scored(task, tmp_path):
    with pytest.raises(RecipeError, match="from the split that is scored"):
        open_shots(task, str(tmp_path / "eval"), 2, 0)
    again = write_split(tmp_path / "copy", "eval", range(10, 18))
    with pytest.raises(RecipeError, match="from the split that is scored"):
        open_shots(task, str(again), 2, 0)
    with pytest.raises(RecipeError, match="no shards for colour"):
        open_shots(task, str(tmp_path / "nowhere"), 2, 0)
    leaked = load_task(write_split(tmp_path / "leak", "eval", range(10, 13)))
    shots = open_shots(leaked, str(tmp_path / "dev"), 7, 0)
    for sample in samples_of(leaked.folder):
        assert sample.key not in [shot.sample.key for shot in shots.draw(sample)]
    with pytest.raises(DataError, match="to draw 8 shots from"):
        open_shots(leaked, str(tmp_path / "dev"), 8, 0).draw(samples_of(leaked.folder)[0])


def test_a_model_is_asked_with_shots_and_the_protocol_says_so(task, tmp_path, tiny_checkpoint):
    sets = ["eval.engine=hf", "eval.max_new_tokens=3", "eval.num_bootstrap=10"]
    few = [*sets, "eval.num_shots=2", f"eval.shots_dir={tmp_path / 'dev'}"]
    recipe = load_recipe(None, few)
    metrics = evaluate(recipe, model=tiny_checkpoint, tasks=[task.folder], out=tmp_path / "few").to_json()
    assert metrics["protocol"]["num_shots"] == 2
    assert metrics["tasks"]["colour"]["num_samples"] == 4
    (shard,) = open_source([str(tmp_path / "few/colour")]).shards
    for sample in read_shard(shard, on_reject=pytest.fail):
        assert len(sample.annotation("eval").decision["shots"]) == 2
    with pytest.raises(RecipeError, match="num_shots"):
        evaluate(load_recipe(None, sets), model=tiny_checkpoint, tasks=[task.folder], out=tmp_path / "few")


def test_an_answer_that_spells_a_placeholder_brings_no_image(task, tmp_path):
    folder = tmp_path / "odd" / "colour"
    folder.mkdir(parents=True)
    (folder / "task.toml").write_text('answer_type = "short"\nsplit = "dev"\n')
    with TarWriter(folder / "000000.tar") as tar:
        meta = {"question": "Which?", "answers": ["the <image> tag"]}
        tar.write_sample("0", {"png": png(9), "json": json.dumps(meta).encode()})
    sample = samples_of(task.folder)[0]
    shots = open_shots(task, str(tmp_path / "odd"), 1, 0).draw(sample)
    turns, pictures = with_shots("Which number?", sample, shots)
    assert sum(turn.text.count("<image>") for turn in turns) == len(pictures) == 2


def write_pairs(root, split, numbers):
    folder = root / split / "pairs"
    folder.mkdir(parents=True)
    (folder / "task.toml").write_text(f'answer_type = "short"\nsplit = "{split}"\n')
    with TarWriter(folder / "000000.tar") as tar:
        for number in numbers:
            meta = json.dumps({"question": "Which is it?", "answers": [str(number)]}).encode()
            tar.write_sample(f"{number:04d}", {"0.png": png(number), "1.png": png(number + 100), "json": meta})
    return folder


needs_vllm = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("engine", ["hf", pytest.param("vllm", marks=needs_vllm)])
def test_four_shots_of_pairs_are_answered_by_every_engine(tmp_path, tiny_checkpoint, engine):
    write_pairs(tmp_path, "dev", range(10, 18))
    folder = write_pairs(tmp_path, "eval", range(20, 32))
    sets = [f"eval.engine={engine}", "eval.max_new_tokens=3", "eval.num_bootstrap=10", "eval.num_shots=4"]
    recipe = load_recipe(None, [*sets, f"eval.shots_dir={tmp_path / 'dev'}"])
    metrics = evaluate(recipe, model=tiny_checkpoint, tasks=[folder], out=tmp_path / "out").to_json()
    assert (metrics["tasks"]["pairs"]["num_samples"], metrics["num_rejected"]) == (12, 0)
