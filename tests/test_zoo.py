"""The zoo is as its users think it is: every family can be read, and its answer depends on the picture."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from zoo import NAMES, picture


@pytest.mark.parametrize("name", NAMES)
def test_answers_depend_on_the_picture(zoo: Callable[[str], Path], name: str) -> None:
    folder = zoo(name)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    answers = set()
    for seed in range(4):
        if processor.chat_template is None:
            inputs = processor(images=[picture(seed)], text=["Describe the image."], return_tensors="pt")
            inputs.pop("labels", None)
        else:
            content = [{"type": "image", "image": picture(seed)}, {"type": "text", "text": "Describe it."}]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                add_generation_prompt=True,
            )
        assert inputs["input_ids"].max() < model.config.get_text_config().vocab_size
        answers.add(tuple(model.generate(**inputs, max_new_tokens=12, do_sample=False)[0].tolist()))
    assert len(answers) == 4
