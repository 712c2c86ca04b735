"""Checkpoints whose files contradict each other are told of before weights are read, by a check and stages."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

import zoo
from tiny_vlm import build_random_vlm, picture
from vila2cli.ask.model import AskedModel
from vila2cli.ask.preflight import checked_inputs
from vila2cli.engine import EngineSettings, Request, open_engine
from vila2cli.errors import ModelError
from vila2cli.model.chat import Chat
from vila2cli.run.stopping import Stop
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards.sample import Turn
from vila2cli.train.job import load_checkpoint
from vila2cli.train.survey import Wanted, survey

Change = Callable[[Path], object]
SETTINGS = EngineSettings(dtype="float32")
QUESTIONS = ("What is shown?", "Describe the image in details: is there a red ring?")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_random_vlm(tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture
def brought(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "brought"))


def change(path: Path, how: Callable[[dict[str, Any]], object]) -> None:
    table = json.loads(path.read_text())
    how(table)
    path.write_text(json.dumps(table))


def other_image_token(folder: Path) -> None:
    change(folder / "config.json", lambda table: table.update(image_token_id=9))


def tokenizer_without_image_token(folder: Path) -> None:
    """The processor then adds the token, behind all that the model knows of."""
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<image>", "<picture>"))


def no_end(folder: Path) -> None:
    change(folder / "tokenizer_config.json", lambda table: table.pop("eos_token"))
    change(folder / "generation_config.json", lambda table: table.pop("eos_token_id"))
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|im_end|>", "").replace("<|im_start|>", ""))


def generation(**values: Any) -> Change:
    return lambda folder: change(folder / "generation_config.json", lambda table: table.update(values))


def text_config(**values: Any) -> Change:
    return lambda folder: change(folder / "config.json", lambda table: table["text_config"].update(values))


CONTRADICTED: dict[str, tuple[Change, str]] = {
    "another image token": (
        other_image_token,
        r"^Idefics3\w+ would not see a picture: .* token 9 .*its processor writes 5 \(<image>\)",
    ),
    "an unknown image token": (
        tokenizer_without_image_token,
        r"would not see a picture: .* token 5 \(<picture>\), .* give it the tokenizer",
    ),
    "no end token": (no_end, "names no end token; set eos_token_id in its generation_config.json"),
    "an end token's text": (generation(eos_token_id="<|im_end|>"), r"end token '<\|im_end\|>' is no id"),
    "settings that transformers refuses": (
        generation(max_new_tokens=-5),
        "generation_config.json of .* cannot be read: `max_new_tokens` must be greater",
    ),
    "a generation config cut off": (
        lambda folder: (folder / "generation_config.json").write_text('{"eos_token_id": 4,'),
        "cannot read .*generation_config.json",
    ),
    "a template with an error": (
        lambda folder: (folder / "chat_template.jinja").write_text("{% if %}"),
        "the chat template cannot be parsed",
    ),
    "heads that do not divide it": (
        text_config(num_attention_heads=3),
        "not a multiple of the number",
    ),
    "a context too short": (
        text_config(max_position_embeddings=8),
        r"a short question about a picture takes \d+ tokens, and its context is 8",
    ),
}


@pytest.mark.parametrize("what", CONTRADICTED)
def test_it_is_told_before_weights_are_read(what: str, brought: Path) -> None:
    contradict, told = CONTRADICTED[what]
    contradict(brought)
    (brought / "model.safetensors").write_bytes(b"no weights at all")
    asked = AskedModel.of(str(brought), "hf", SETTINGS, max_new_tokens=4)
    for look in (
        lambda: checked_inputs(load_recipe(None, []), str(brought)),
        lambda: open_engine("hf", brought, SETTINGS),
        lambda: asked.look(Stop()),
    ):
        with pytest.raises(ModelError, match=told) as caught:
            look()
        assert "\n" not in str(caught.value)


def test_a_processor_that_is_its_tokenizer_alone_is_told_by_a_check(brought: Path) -> None:
    change(brought / "processor_config.json", lambda table: table.update(processor_class="OwnProcessor"))
    with pytest.raises(ModelError, match=r"cannot be shown a picture: of its processor .* the tokenizer alone"):
        checked_inputs(load_recipe(None, []), str(brought))


def test_no_training_begins_that_would_not_see_pictures(brought: Path) -> None:
    other_image_token(brought)
    model, processor = load_checkpoint(brought)
    with pytest.raises(ModelError, match="would not see a picture"):
        survey(model, Chat(processor), Wanted())


def test_pictures_of_another_size_than_the_models_are_refused_when_it_is_loaded(brought: Path) -> None:
    sides = {"longest_edge": 32}
    change(
        brought / "processor_config.json",
        lambda table: table["image_processor"].update(size=sides, max_image_size=sides),
    )
    with pytest.raises(ModelError, match=r"^Idefics3\w+ is not supported: it fails on a picture"):
        open_engine("hf", brought, SETTINGS)


def answers(folder: Path, batch_size: int = 8) -> tuple[list[str], list[str]]:
    torch.set_num_threads(1)
    engine = open_engine("hf", folder, EngineSettings(dtype="float32", batch_size=batch_size))
    requests = [
        Request(id=str(i), messages=(Turn("user", QUESTIONS[i % 2]),), images=(picture(i),), max_new_tokens=8)
        for i in range(6)
    ]
    found = sorted(engine.generate(requests), key=lambda result: result.id)
    return [result.error or result.text for result in found], engine.notes


def test_what_answers_otherwise_in_batches_is_asked_alone(brought: Path) -> None:
    """With fewer tokens than features of a picture, the rest of one picture's would go to the next.

    Later releases of transformers compare the two themselves, and such a checkpoint is refused.
    """
    change(brought / "processor_config.json", lambda table: table.update(image_seq_len=9))
    try:
        texts, notes = answers(brought)
    except ModelError as error:
        assert "it fails on a picture: Image features and image tokens do not match" in str(error)  # noqa: PT017
        return
    assert any("answers otherwise in batches" in note for note in notes)
    assert texts == answers(brought, batch_size=1)[0]


def test_a_padding_token_that_the_model_has_not_is_none(brought: Path) -> None:
    """As tokenizers have one that were given it later; nothing of padding is seen, so any token will do."""
    processor: Any = AutoProcessor.from_pretrained(brought)
    tokenizer = processor.tokenizer
    tokenizer.add_tokens([f"w{i}zz" for i in range(1024 - len(tokenizer))])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == 1024
    processor.save_pretrained(brought)
    engine: Any = open_engine("hf", brought, SETTINGS)
    assert engine._pad < 1024
    assert answers(brought)[0] == answers(brought, batch_size=1)[0]
    assert survey(load_checkpoint(brought)[0], Chat(processor), Wanted()).pad_id < 1024


def test_an_end_token_beside_the_llm_counts_where_nothing_is_generated_by_default(brought: Path) -> None:
    no_end(brought)
    (brought / "generation_config.json").unlink()
    change(
        brought / "config.json",
        lambda table: (table.update(eos_token_id=4), table["text_config"].update(eos_token_id=None)),
    )
    engine: Any = open_engine("hf", brought, SETTINGS)
    assert engine._eos == [4]
    checked_inputs(load_recipe(None, []), str(brought))


def picture_token_behind_all(folder: Path) -> int:
    """Fill the vocabulary with words, and put a picture's token, which the model need not know, behind it."""
    vocabulary = json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"]
    path = folder / "tokenizer.json"
    table = json.loads(path.read_text().replace("<image>", "<picture>"))
    first = 1 + max([*table["model"]["vocab"].values(), *(token["id"] for token in table["added_tokens"])])
    names = [f"w{i}zz" for i in range(first, vocabulary)] + ["<image>"]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    table["added_tokens"] += [
        {"id": i, "content": name, "special": name == "<image>", **flags} for i, name in enumerate(names, first)
    ]
    path.write_text(json.dumps(table))
    change(folder / "config.json", lambda config: config.update(image_token_index=vocabulary))
    return int(vocabulary)


@pytest.mark.skipif(not zoo.HAS_TORCHVISION, reason="its processor needs torchvision")
def test_a_pictures_token_may_lie_behind_the_vocabulary_where_it_is_replaced(tmp_path: Path) -> None:
    folder = zoo.build("paligemma", tmp_path)
    before = answers(folder)[0]
    vocabulary = picture_token_behind_all(folder)
    assert AutoProcessor.from_pretrained(folder).image_token_id == vocabulary
    checked_inputs(load_recipe(None, []), str(folder))
    assert answers(folder)[0] == before
