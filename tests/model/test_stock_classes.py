"""Stock classes: what the hf engine says and scores is what transformers says, one picture at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps
from transformers import AutoModelForImageTextToText, AutoProcessor

from vila2cli.engine import Engine, EngineSettings, Request, ScoreRequest, open_engine
from vila2cli.errors import ModelError
from vila2cli.model.chat import Chat
from vila2cli.model.loading import load_processor
from vila2cli.shards.sample import Turn
from zoo import NAMES, build, picture

pytestmark = pytest.mark.torchvision
QUESTION = "What is shown?"
NUM_NEW = 8
SIZES = [(1, 40), (7, 7), (320, 90), (60, 300), (33, 65), (64, 64), (500, 120)]


def pictures() -> list[Image.Image]:
    """24 pictures of odd shapes; a grey one, one of a palette and one with alpha are made RGB."""
    shown = [Image.linear_gradient("L").resize(size).convert("RGB") for size in SIZES]
    shown += [picture(0).convert(mode).convert("RGB") for mode in ("L", "P", "RGBA")]
    return shown + [picture(seed) for seed in range(1, 25 - len(shown))]


class Stock:
    """A checkpoint of the zoo, in the hf engine and in transformers alone."""

    def __init__(self, name: str, zoo: Path) -> None:
        torch.set_num_threads(1)
        self.folder = build(name, zoo)
        self.engine: Engine = open_engine("hf", self.folder, EngineSettings(dtype="float32", batch_size=8))
        self.processor: Any = AutoProcessor.from_pretrained(self.folder)
        self.net: Any = AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32).eval()

    def inputs(self, *images: Image.Image) -> dict[str, Any]:
        """What the processor's own path gives, without anything of ours."""
        if getattr(self.processor, "chat_template", None) is None:
            made = self.processor(
                text=["<image>" * len(images) + QUESTION], images=[list(images)], return_tensors="pt"
            )
            return {name: value for name, value in made.items() if name != "labels"}
        parts = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": QUESTION}]
        made = self.processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        return dict(made)

    def says(self, *images: Image.Image) -> str | None:
        """Transformers' own text, None where it fails itself."""
        try:
            inputs = self.inputs(*images)
            with torch.inference_mode():
                ids = self.net.generate(**inputs, max_new_tokens=NUM_NEW, do_sample=False)
        except (RuntimeError, ValueError):
            return None
        new = ids[0, inputs["input_ids"].shape[1] :]
        return str(self.processor.tokenizer.decode(new, skip_special_tokens=True)).strip()


@pytest.fixture(scope="module", params=NAMES)
def stock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(request.param, tmp_path_factory.mktemp("zoo"))


def asked(name: str, *images: Image.Image) -> Request:
    return Request(id=name, messages=(Turn("user", QUESTION),), images=images, max_new_tokens=NUM_NEW)


def test_texts_are_those_of_transformers(stock: Stock) -> None:
    shown = [(image,) for image in pictures()]
    shown += [(shown[i][0], shown[i + 8][0]) for i in range(2, 6)]
    requests = [asked(str(i), *images) for i, images in enumerate(shown)]
    results = {result.id: result for result in stock.engine.generate(requests)}
    texts = [stock.says(*images) for images in shown]
    for i, text in enumerate(texts):
        assert text is None or results[str(i)].text == text
    assert texts.count(None) <= 2
    assert len(set(texts)) > len(texts) // 2


def test_an_answer_changes_with_its_picture(stock: Stock) -> None:
    image = picture(3, (90, 60))
    requests = [asked("0", image), asked("1", ImageOps.invert(image))]
    first, second = sorted(stock.engine.generate(requests), key=lambda result: result.id)
    assert first.logprob_mean != second.logprob_mean


def test_scores_are_those_of_the_tokens_that_are_trained(stock: Stock) -> None:
    turns, texts = (Turn("user", QUESTION),), ["A red circle.", "A", "No: a blue star at the top left."]
    images = pictures()[2:5]
    requests = [
        ScoreRequest(id=str(i), messages=turns, images=(image,), text=text)
        for i, (image, text) in enumerate(zip(images, texts, strict=True))
    ]
    results = {result.id: result for result in stock.engine.generate(requests)}
    chat = Chat(stock.processor)
    for i, (image, text) in enumerate(zip(images, texts, strict=True)):
        ids, labels = chat.train_ids([*turns, Turn("assistant", text)], [image])
        trained = [place for place, label in enumerate(labels) if label >= 0 and label not in chat.end_ids]
        ids, labels = ids[: trained[-1] + 1], labels[: trained[-1] + 1]
        types = {name: torch.tensor([values]) for name, values in chat.token_inputs(ids, trained[0]).items()}
        own = stock.inputs(image)
        pixels = {name: own[name] for name in own.keys() - types.keys() - {"input_ids", "attention_mask"}}
        with torch.inference_mode():
            logits = stock.net(input_ids=torch.tensor([ids]), **types, **pixels).logits[0]
        logprobs = logits.log_softmax(-1)
        expected = [logprobs[place - 1, ids[place]].item() for place in trained]
        assert results[str(i)].token_logprobs == pytest.approx(expected, abs=1e-4)


def test_a_template_that_leaves_the_picture_out_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    processor = load_processor(build("qwen2_vl", tmp_path_factory.mktemp("zoo")))
    processor.chat_template = "{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}"
    with pytest.raises(ModelError, match="leaves the picture out"):
        Chat(processor).check("Qwen2VLForConditionalGeneration")
