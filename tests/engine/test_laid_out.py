"""A model whose processor has to lay out every prompt: Idefics2's joins the marks between two pictures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2Processor,
    MistralConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

from vila2cli.engine import Engine, EngineSettings, Request, ScoreRequest, open_engine
from vila2cli.errors import ModelError
from vila2cli.model.chat import Chat
from vila2cli.shards.sample import Turn
from zoo_tokenizers import TOKENIZERS

TEMPLATE = (
    "{% for message in messages %}{{message['role'].capitalize()}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
QUESTION = "Describe the image in detail."
SIDES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
PICTURES = [
    Image.linear_gradient("L").resize(size).convert("RGB") for size in ((90, 30), (20, 70), (3, 4), (48, 48))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = TOKENIZERS["idefics3"]()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=named.backend_tokenizer,
        bos_token=named.bos_token,
        eos_token=named.eos_token,
        pad_token=named.pad_token,
    )
    config = Idefics2Config(
        vision_config={**SIDES, "intermediate_size": 64, "image_size": 32, "patch_size": 8},
        perceiver_config={
            "hidden_size": 32,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "num_key_value_heads": 1,
            "resampler_head_dim": 16,
        },
        text_config=MistralConfig(
            **SIDES,
            vocab_size=len(tokenizer),
            num_key_value_heads=1,
            intermediate_size=64,
            max_position_embeddings=512,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(3)
    net = Idefics2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.15)
    net.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    images = Idefics2ImageProcessorPil(
        size={"longest_edge": 48, "shortest_edge": 24}, do_image_splitting=False, image_mean=[0.5] * 3
    )
    made = tmp_path_factory.mktemp("idefics2")
    net.save_pretrained(made)
    Idefics2Processor(images, tokenizer, image_seq_len=4, chat_template=TEMPLATE).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return open_engine("hf", folder, EngineSettings(dtype="float32"))


class _Transformers:
    """The same model asked by transformers' own `apply_chat_template` and `generate`."""

    def __init__(self, folder: Path) -> None:
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.net: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

    def inputs(self, images: list[Image.Image], answer: str = "") -> dict[str, torch.Tensor]:
        parts = [{"type": "image", "image": image} for image in images]
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": QUESTION}]}]
        if answer:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return dict(
            self.processor.apply_chat_template(
                messages, add_generation_prompt=not answer, tokenize=True, return_dict=True, return_tensors="pt"
            )
        )

    @torch.inference_mode()
    def text(self, images: list[Image.Image]) -> str:
        inputs = self.inputs(images)
        ids = self.net.generate(**inputs, do_sample=False, max_new_tokens=8)[0]
        new = ids[inputs["input_ids"].shape[1] :]
        return str(self.processor.tokenizer.decode(new, skip_special_tokens=True)).strip()

    @torch.inference_mode()
    def logprobs(self, images: list[Image.Image], answer: str) -> list[float]:
        """Of the tokens between the prompt and the end of the answer's turn."""
        inputs = self.inputs(images, answer)
        logprobs_SV = self.net(**inputs).logits[0].log_softmax(-1)
        ids = inputs["input_ids"][0].tolist()
        start = self.inputs(images)["input_ids"].shape[1]
        stop = ids.index(self.processor.tokenizer.eos_token_id, start)
        return [float(logprobs_SV[i - 1, ids[i]]) for i in range(start, stop)]


def _request(i: int, *images: Image.Image) -> Request:
    return Request(id=str(i), messages=(Turn("user", QUESTION),), images=images, max_new_tokens=8)


def test_answers_are_those_of_transformers_for_one_and_two_pictures(folder: Path, engine: Engine) -> None:
    theirs = _Transformers(folder)
    shown = [*([picture] for picture in PICTURES), PICTURES[:2], PICTURES[1:3]]
    results = {r.id: r.text for r in engine.generate([_request(i, *own) for i, own in enumerate(shown)])}
    assert [results[str(i)] for i in range(len(shown))] == [theirs.text(own) for own in shown]
    assert len(set(results.values())) > 3, "the answers depend on the picture"


def test_scores_are_those_of_transformers(folder: Path, engine: Engine) -> None:
    theirs, answer = _Transformers(folder), "A red star at the top left."
    for own in (PICTURES[:1], PICTURES[1:3]):
        request = ScoreRequest(id="s", messages=(Turn("user", QUESTION),), images=tuple(own), text=answer)
        (result,) = engine.generate([request])
        assert result.token_logprobs == pytest.approx(theirs.logprobs(own, answer), abs=1e-4)


def test_training_is_refused_in_one_line(folder: Path) -> None:
    chat = Chat(AutoProcessor.from_pretrained(folder))
    with pytest.raises(ModelError, match="can be asked but not trained"):
        chat.pixel_inputs([PICTURES[:1]])
