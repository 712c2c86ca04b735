"""Every stock family of the zoo: the loss is its own class's, and what is trained can be read again."""

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from vila2cli.errors import RecipeError
from vila2cli.model.averaging import write_soup
from vila2cli.model.chat import IGNORE_INDEX, Chat
from vila2cli.model.freeze import parts_of
from vila2cli.model.likeness import check_alike
from vila2cli.model.tensor_files import tensor_places
from vila2cli.shards.sample import Turn
from vila2cli.train.attention import BY_SAMPLE, joins_sequences, set_kernel
from vila2cli.train.data import TrainSample
from vila2cli.train.job import load_checkpoint
from vila2cli.train.objective import Batcher, Objective, sample_of
from vila2cli.train.survey import Wanted, survey
from zoo import NAMES, picture
from zoo_training import tune, write_shard

Zoo = Callable[[str], Path]
UNPACKED = ("paligemma",)
"""Families whose samples cannot be kept apart in one sequence: a prompt's tokens see each other both ways."""
PROJECTORS = {
    "qwen2_vl": "model.visual.merger.",
    "qwen2_5_vl": "model.visual.merger.",
    "qwen3_vl": "model.visual.(merger|deepstack_merger_list).",
    "llava_next": "model.(multi_modal_projector.|image_newline$)",
    "llava_onevision": "model.(multi_modal_projector.|image_newline$)",
    "smolvlm": "model.connector.",
    "idefics3": "model.connector.",
}
"""By family, what of the parameters is the projector, as a pattern; of others the multi_modal_projector."""
LLMS = r"lm_head\.|model\.(language_model|text_model)\."


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_in_its_part(zoo: Zoo, name: str) -> None:
    model = AutoModelForImageTextToText.from_pretrained(zoo(name))
    projector = re.compile(PROJECTORS.get(name, "model.multi_modal_projector."))
    for parameter, part in parts_of(model).items():
        is_llm, is_projector = re.match(LLMS, parameter), projector.match(parameter)
        assert part == ("llm" if is_llm else "projector" if is_projector else "vision_tower"), parameter
    assert set(parts_of(model).values()) == {"llm", "projector", "vision_tower"}


def three(chat: Chat) -> list[TrainSample]:
    """Conversations about pictures of different shapes, with answers of different lengths."""
    said = ("A red bar.", "It shows two.", "The image shows a green ring at the top left, and a blue one.")
    return [
        sample_of(chat, str(i), [Turn("user", "<image>What is it?"), Turn("assistant", text)], [picture(i)])
        for i, text in enumerate(said)
    ]


def own_loss(model: Any, chat: Chat, samples: list[TrainSample]) -> float:
    """The mean over trained tokens of what the class itself gives as loss, for one sample after another."""
    total, num = 0.0, 0
    for sample in samples:
        content = [{"type": "image", "image": sample.decoded()[0]}, {"type": "text", "text": "What is it?"}]
        if chat.processor.chat_template is None:
            answer = chat.tokenizer.decode([i for i in sample.labels if i >= 0], skip_special_tokens=True)
            inputs = chat.processor(
                images=sample.decoded(), text=["What is it?"], suffix=[answer], return_tensors="pt"
            )
            assert inputs.pop("labels")[0].tolist() == list(sample.labels)
            assert inputs["input_ids"][0].tolist() == list(sample.ids)
        else:
            inputs = chat.processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
            )
            inputs |= chat.token_inputs(sample.ids)
        for dropped in ("attention_mask", *getattr(chat.processor, "unused_input_names", ())):
            inputs.pop(dropped, None)
        tensors = {key: torch.as_tensor(value) for key, value in inputs.items()}
        tensors = {
            key: v[None] if v.ndim == 1 and key.endswith("type_ids") else v for key, v in tensors.items()
        }
        tensors["input_ids"] = torch.tensor([sample.ids])
        with torch.no_grad():
            loss = model(**tensors, labels=torch.tensor([sample.labels])).loss.item()
        num_trained = sum(label != IGNORE_INDEX for label in sample.labels[1:])
        total, num = total + loss * num_trained, num + num_trained
    return total / num


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_classs_own_padded_and_packed(zoo: Zoo, name: str) -> None:
    model = AutoModelForImageTextToText.from_pretrained(zoo(name), dtype="float32").train()
    chat = Chat(AutoProcessor.from_pretrained(zoo(name)))
    samples = three(chat)
    wanted = own_loss(model, chat, samples)
    manner = survey(model, chat, Wanted())
    num = sum(label != IGNORE_INDEX for sample in samples for label in sample.labels[1:])

    def ours(batcher: Batcher, sequences: list[list[TrainSample]]) -> float:
        loaded = batcher.load([[(sample, 0) for sample in members] for members in sequences])
        objective = Objective(model, None, manner=batcher.manner)
        with torch.no_grad():
            return objective(loaded.tensors, (), loaded.sample_lengths)[0].item() / num

    assert ours(Batcher(chat, manner=manner), [[one] for one in samples]) == pytest.approx(wanted, abs=1e-4)
    if name in UNPACKED:
        with pytest.raises(RecipeError, match=r"^\w+ cannot be trained on packed samples: .*packing = false"):
            survey(model, chat, Wanted(kernels=(BY_SAMPLE, "sdpa")))
        return
    manner = survey(model, chat, Wanted(kernels=(BY_SAMPLE, "sdpa")))
    kernel = manner.packed_kernel
    assert kernel == ("sdpa" if name == "gemma3" else BY_SAMPLE), "only its images see both ways"
    set_kernel(model, kernel)
    batcher = Batcher(chat, is_packed=True, in_one=joins_sequences(kernel), manner=manner)
    assert ours(batcher, [samples]) == pytest.approx(wanted, abs=1e-4)
    assert ours(batcher, [samples[:1], samples[1:]]) == pytest.approx(wanted, abs=1e-4)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shard(tmp_path_factory.mktemp("shard") / "0.tar")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_trained_can_be_read_again(zoo: Zoo, name: str, shard: Path, tmp_path: Path) -> None:
    model, processor = load_checkpoint(zoo(name))
    before = copy.deepcopy(model.state_dict())
    out = tmp_path / "out"
    summary = tune(model, processor, shard, out)
    assert summary.phases[0]["num_steps"] == 3
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert {parts_of(model)[key] for key in changed} == {"vision_tower", "projector", "llm"}
    again, info = AutoModelForImageTextToText.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    chat = Chat(AutoProcessor.from_pretrained(out))
    loaded = Batcher(chat, manner=survey(again, chat, Wanted())).load([[(one, 0)] for one in three(chat)])
    inputs = {key: value for key, value in loaded.tensors.items() if key not in ("labels", "sources")}
    with torch.no_grad():
        here, there = (one.eval()(**inputs).logits for one in (model, again))
    torch.testing.assert_close(there, here, rtol=0, atol=0)
    ends = again.generation_config.eos_token_id
    assert set(chat.end_ids) <= set([ends] if isinstance(ends, int) else ends)
    check_alike([zoo(name), out])
    write_soup([zoo(name), out], [0.5, 0.5], tmp_path / "soup")
    assert tensor_places(tmp_path / "soup").keys() == tensor_places(zoo(name)).keys()
    soup = AutoModelForImageTextToText.from_pretrained(tmp_path / "soup").state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(soup[key], (value + before[key]) / 2)


class Capped(LlavaForConditionalGeneration):
    """A class that does more to its logits than its head does."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = torch.tanh(output.logits) * 2
        return output


@pytest.mark.parametrize("is_packed", [False, True])
def test_logits_are_made_as_the_class_makes_them(zoo: Zoo, is_packed: bool) -> None:
    model = Capped.from_pretrained(zoo("llava_1_5"), dtype="float32").train()
    chat = Chat(AutoProcessor.from_pretrained(zoo("llava_1_5")))
    samples = three(chat)
    manner = survey(model, chat, Wanted(kernels=("sdpa",)))
    assert manner.has_own_logits
    wanted = 0.0
    for sample in samples:
        loaded = Batcher(chat).load([[(sample, 0)]]).tensors
        inputs = {key: value for key, value in loaded.items() if key not in ("labels", "sources")}
        logits = model(**inputs).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, loaded["labels"][0, 1:], reduction="sum")
        wanted += losses.item()
    batcher = Batcher(chat, is_packed=is_packed, manner=manner)
    sequences = [samples] if is_packed else [[one] for one in samples]
    loaded = batcher.load([[(sample, 0) for sample in members] for members in sequences])
    for some in (True, False):
        objective = Objective(model, None, manner=replace(manner, keeps_some_logits=some))
        assert objective(loaded.tensors, ())[0].item() == pytest.approx(wanted, rel=1e-5)
