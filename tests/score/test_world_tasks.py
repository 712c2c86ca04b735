"""The world's own ground truth through the scorers: right answers score 1, spoiled ones less."""

from random import Random

import pytest

from vila2cli.score.caption import count_facts
from vila2cli.score.scorer import Vocabulary
from vila2cli.score.task import find_tasks
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import open_source, read_shard
from vila2cli.world import sayings
from vila2cli.world.scenes import VOCABULARY, draw_scene
from vila2cli.world.write import TASKS, write_world

SIZES = ("pretrain=1", "interleaved=0", "text=0", "sft=1", "specialist=1", "dev=1", "eval=25")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    write_world(load_recipe(None, [f"world.num_{size}" for size in SIZES]), out)
    return {task.name: task for task in find_tasks([out / "eval"])}


@pytest.mark.parametrize("name", TASKS)
def test_the_right_answer_scores_one(tasks, name):
    task = tasks[f"world-{name}"]
    shards = open_source([str(task.folder)]).shards
    samples = [sample for shard in shards for sample in read_shard(shard, on_reject=pytest.fail)]
    assert len(samples) == 25
    for sample in samples:
        assert task.question_of(sample)
        right = task.scorer.score(sample.meta["answers"][0], task.reference_of(sample))
        assert right["score"] == 1
        assert task.scorer.score("star.", task.reference_of(sample))["score"] < 1 or name in (
            "existence",
            "shape",
        )


def test_captions_of_the_world_state_all_their_facts_and_no_other():
    random, words = Random(0), Vocabulary(**VOCABULARY)
    for _ in range(100):
        scene = draw_scene(random, "eval")
        truth = scene.to_json()
        count = count_facts(sayings.caption(scene), truth, words)
        assert count.right == count.stated == count.true == len(scene.objects) + (scene.writing is not None)
        spoiled = count_facts(sayings.corrupted_caption(scene, random), truth, words)
        assert spoiled.contradicted > 0


def test_alt_text_without_noise_contradicts_nothing():
    random, words = Random(0), Vocabulary(**VOCABULARY)
    for _ in range(300):
        scene = draw_scene(random, "pretrain")
        text = sayings.alt_text(scene, random, wrong=0.0, boilerplate=0.1)
        count = count_facts(text, scene.to_json(), words)
        assert count.contradicted == 0
        assert count.stated <= len(scene.objects) + 1
