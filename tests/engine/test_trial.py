"""What is tried of every checkpoint when it is loaded: that it sees pictures, and answers alike in batches."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from vila2cli.engine.trial import Shown, try_out
from vila2cli.errors import DataError, ModelError
from vila2cli.model.chat import Chat, collate
from vila2cli.model.loading import load_processor

Fault = Callable[[Any], object]


def loaded(folder: Path, template: str = "") -> tuple[Any, Chat]:
    torch.set_num_threads(1)
    net: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor: Any = load_processor(folder)
    processor.chat_template = template or processor.chat_template
    chat = Chat(processor)
    net.generation_config.eos_token_id = list(chat.end_ids)
    return net, chat


def inputs_for(chat: Chat, shown: Sequence[Shown]) -> dict[str, Any]:
    ids = [chat.prompt_ids(turns, [image]) for turns, image in shown]
    padded = collate([(own, own) for own in ids], 0, left=True)
    tensors = {name: torch.tensor(padded[name]) for name in ("input_ids", "attention_mask")}
    return {**chat.pixel_inputs([[image] for _, image in shown]), **tensors}


def tried(folder: Path, fault: Fault, template: str = "") -> bool:
    """A trial of a model that a fault was put into."""
    net, chat = loaded(folder, template)
    fault(net)
    return try_out(net, lambda shown: inputs_for(chat, shown))


def without(*names: str) -> Fault:
    """Leave arguments out of every forward pass."""

    def drop(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {name: value for name, value in kwargs.items() if name not in names}

    return lambda net: net.register_forward_pre_hook(drop, with_kwargs=True)


def swap_later_tokens(net: Any) -> object:
    """Go wrong after the first token of an answer, and only beside another one."""
    widths: list[int] = []

    def note(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        widths.append(kwargs["input_ids"].shape[1])

    def swap(_: Any, args: Any, output: Any) -> None:
        if len(output.logits) > 1 and widths[-1] == 1:
            output.logits = output.logits.flip(0)

    net.register_forward_pre_hook(note, with_kwargs=True)
    return net.register_forward_hook(swap)


def mistake_squares(net: Any) -> object:
    """Go wrong about pictures that are as wide as they are high, beside others."""

    def flip(_: Any, args: Any, output: Any) -> None:
        output.logits[2:] = output.logits[2:].flip(-1)

    return net.register_forward_hook(flip)


def test_a_model_that_does_not_see_pictures_is_refused(random_vlm: Path) -> None:
    def blind(net: Any) -> object:
        return net.model.connector.register_forward_hook(lambda _, args, output: torch.zeros_like(output))

    with pytest.raises(ModelError, match=r"^Idefics3\w+ is not supported: its answers do not depend on"):
        tried(random_vlm, blind)


@pytest.mark.parametrize(
    ("fault", "answers_alike"),
    [
        (lambda net: None, True),
        (without("attention_mask", "position_ids"), False),
        (swap_later_tokens, False),
        (mistake_squares, False),
    ],
    ids=["none", "padding is seen", "later tokens", "squares"],
)
def test_answers_in_a_batch_are_compared_with_those_alone(
    fault: Fault, answers_alike: bool, random_vlm: Path
) -> None:
    assert tried(random_vlm, fault) is answers_alike


def test_pictures_that_cannot_be_laid_beside_each_other_are_asked_about_alone(random_vlm: Path) -> None:
    """As those of Perception LM that are cut into different numbers of tiles."""

    net, chat = loaded(random_vlm)

    def one_by_one(shown: Sequence[Shown]) -> dict[str, Any]:
        if len(shown) > 1:
            raise DataError("the image processor fails on images of 150x60, 96x96")
        return inputs_for(chat, shown)

    assert try_out(net, one_by_one) is False


def test_a_prompt_may_end_with_the_question(random_vlm: Path) -> None:
    """The tokens that the trial goes on with are the same for a prompt in a batch and alone."""
    template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endfor %}"
    )
    assert tried(random_vlm, lambda net: None, template)
