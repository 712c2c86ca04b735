"""LongRoPE turns positions by a length: transformers by that of the longest in a batch, vLLM by its context."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tiny_vlm import picture
from vila2cli.engine import Engine, EngineSettings, Request, ScoreRequest, open_engine
from vila2cli.errors import ModelError, RecipeError
from vila2cli.model.chat import Chat
from vila2cli.model.loading import load_processor
from vila2cli.settings import TrainerSettings
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards.sample import Turn
from vila2cli.train.distribution import alone
from vila2cli.train.job import load_checkpoint
from vila2cli.train.launch import read_launch
from vila2cli.train.survey import survey_of

TURN = 64
QUESTIONS = ["What?", "What is shown?", "What is shown at the top left of it, or at the top right?"]
TURNS = [(Turn("user", question),) for question in (*QUESTIONS, QUESTIONS[2] * 2, QUESTIONS[2] * 3)]
NUM_NEW = 12


@pytest.fixture(scope="module")
def turning(random_vlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("turning") / "model"
    shutil.copytree(random_vlm, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 8 * TURN
    config["text_config"]["rope_parameters"] = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 8.0,
        "short_factor": [1.0] * 16,
        "long_factor": [3.0 + i for i in range(16)],
        "original_max_position_embeddings": TURN,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def texts(engine: Engine, turns: list[tuple[Turn, ...]]) -> list[str]:
    asked = [
        Request(id=str(i), messages=own, images=(picture(0),), max_new_tokens=NUM_NEW)
        for i, own in enumerate(turns)
    ]
    return [one.text for one in sorted(engine.generate(asked), key=lambda one: one.id)]


def scores(engine: Engine) -> list[float]:
    asked = [
        ScoreRequest(id=str(i), messages=own, images=(picture(0),), text="a red star")
        for i, own in enumerate(TURNS)
    ]
    results = sorted(engine.generate(asked), key=lambda one: one.id)
    return [value for one in results for value in one.token_logprobs]


def test_a_batch_answers_and_scores_as_each_request_alone(turning: Path) -> None:
    chat = Chat(load_processor(turning))
    lengths = [len(chat.prompt_ids(own, [picture(0)])) for own in TURNS]
    assert lengths[0] + NUM_NEW <= TURN < lengths[-1]
    assert any(length <= TURN < length + NUM_NEW for length in lengths)
    together, single = (
        open_engine("hf", turning, EngineSettings(dtype="float32", batch_size=size)) for size in (8, 1)
    )
    assert texts(together, TURNS) == texts(single, TURNS)
    assert scores(together) == pytest.approx(scores(single), abs=1e-4)


def test_samples_are_trained_together_only_on_one_side_of_the_length(turning: Path) -> None:
    model, processor = load_checkpoint(turning)
    ranks = alone(read_launch(TrainerSettings(), "float32"))

    def check(**settings: Any) -> None:
        phase = load_recipe(None, [f"sft.{key}={value}" for key, value in settings.items()]).sft
        survey_of(model, Chat(processor), [phase], TrainerSettings(), ranks)

    with pytest.raises(RecipeError, match=rf"above {TURN} tokens: set max_length = {TURN}, or packing = false"):
        check(max_length=TURN + 1)
    check(max_length=TURN)
    check(max_length=TURN + 1, packing="false", micro_batch_size=1)


@pytest.mark.vllm
def test_vllm_is_not_asked_about_short_prompts_as_about_long_ones(turning: Path) -> None:
    with pytest.raises(ModelError, match=rf"LongRoPE .* context of 512 .* set engine.max_model_len = {TURN}"):
        open_engine("vllm", turning, EngineSettings(dtype="float32"))
    settings = EngineSettings(dtype="float32", max_model_len=TURN)
    single = open_engine("hf", turning, EngineSettings(dtype="float32", batch_size=1))
    assert texts(open_engine("vllm", turning, settings), TURNS[:2]) == texts(single, TURNS[:2])
