"""Rendering: what is trained, where images stand, and that text cannot break out of its turn."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoProcessor

from vila2cli.errors import DataError
from vila2cli.model import pictures
from vila2cli.model.chat import IGNORE_INDEX, Chat, collate
from vila2cli.shards.sample import Turn

PICTURE = Image.new("RGB", (64, 64), "red")
TURNS = [
    Turn("user", "Describe the image in details."),
    Turn("assistant", "At the top left there is a large red circle."),
    Turn("user", "What colour is the object at the top left?"),
    Turn("assistant", "red"),
]


@pytest.fixture(scope="module")
def chat(tiny_checkpoint: Path) -> Chat:
    return Chat(AutoProcessor.from_pretrained(tiny_checkpoint))


def test_exactly_the_answers_and_their_ends_are_trained(chat: Chat) -> None:
    ids, labels = chat.train_ids(TURNS, [PICTURE])
    trained = [token for token, label in zip(ids, labels, strict=True) if label != IGNORE_INDEX]
    expected = [
        token
        for turn in TURNS
        if turn.role == "assistant"
        for token in [*chat.tokenizer(turn.text)["input_ids"], chat.tokenizer.eos_token_id]
    ]
    assert trained == expected


def test_a_prompt_is_the_beginning_of_the_training_conversation(chat: Chat) -> None:
    ids, _ = chat.train_ids(TURNS, [PICTURE])
    for stop in (1, 3):
        prompt = chat.prompt_ids(TURNS[:stop], [PICTURE])
        assert ids[: len(prompt)] == prompt


def test_ids_equal_those_of_the_processor(chat: Chat) -> None:
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": TURNS[0].text}]}]
    text = chat.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    reference = chat.processor(text=[text], images=[[PICTURE]])["input_ids"][0]
    assert chat.prompt_ids(TURNS[:1], [PICTURE]) == list(reference)


def test_what_a_processor_begins_its_prompts_with_begins_those_without_pictures_too(
    tiny_checkpoint: Path,
) -> None:
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)

    class Begun(type(processor)):  # type: ignore[misc]
        """As Emu3's, which puts a token before every text itself."""

        def prepare_inputs_layout(self, images: Any = None, text: Any = None, **kwargs: Any) -> Any:
            images, text, *others = super().prepare_inputs_layout(images=images, text=text, **kwargs)
            return images, [f"<unk>{one}" for one in text], *others

    processor.__class__ = Begun
    own = Chat(processor)
    own.check()
    for images in ([], [PICTURE]):
        parts = [
            *({"type": "image", "image": image} for image in images),
            {"type": "text", "text": TURNS[0].text},
        ]
        messages = [{"role": "user", "content": parts}]
        theirs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        assert own.prompt_ids(TURNS[:1], images) == list(theirs["input_ids"][0])


def test_ids_are_kept_for_a_bounded_number_of_sizes(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_SIZES", 3)
    own = Chat(chat.processor)
    for width in (10, 11, 12, 10, 13, 14):
        image = Image.new("RGB", (width, 20))
        assert own.prompt_ids(TURNS[:1], [image]) == chat.prompt_ids(TURNS[:1], [image])
    assert [key[0] for key in own.pictures._ids] == [10, 13, 14]


def test_images_stand_where_the_text_says(chat: Chat) -> None:
    turns = [Turn("user", "One: <image> two: <image>"), Turn("assistant", "yes")]
    ids, labels = chat.train_ids(turns, [PICTURE, PICTURE])
    assert ids.count(chat.image_token_id) == 32
    assert all(label != chat.image_token_id for label in labels)
    unexpanded = chat.prompt_ids(turns[:1], [PICTURE, PICTURE], expand=False)
    assert unexpanded.count(chat.image_token_id) == 2


def test_a_caption_cannot_end_its_turn_or_name_an_image(chat: Chat) -> None:
    turns = [Turn("user", "Describe."), Turn("assistant", "a <|im_end|> b <fake_token_around_image> c")]
    ids, _ = chat.train_ids(turns, [PICTURE])
    assert ids.count(chat.tokenizer.eos_token_id) == 2
    assert ids.count(chat.image_token_id) == 16


@pytest.mark.parametrize(
    ("turns", "images", "message"),
    [
        ([Turn("user", "hello")], [], "no token"),
        ([Turn("user", "<image>"), Turn("assistant", "x")], [], "name 1 images, the sample has 0"),
        ([Turn("user", "<image><image>"), Turn("assistant", "x")], [PICTURE], "name 2 images"),
        ([Turn("assistant", "x")], [PICTURE], "the sample has 1"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    chat: Chat, turns: list[Turn], images: list[Image.Image], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        chat.train_ids(turns, images)


def test_collate_pads_on_the_side_asked_for() -> None:
    samples = [([1, 2, 3], [-100, 2, 3]), ([4], [4])]
    right = collate(samples, 0)
    assert right["input_ids"] == [[1, 2, 3], [4, 0, 0]]
    assert right["attention_mask"] == [[1, 1, 1], [1, 0, 0]]
    left = collate(samples, 0, left=True)
    assert left["labels"] == [[-100, 2, 3], [-100, -100, 4]]


def test_a_reply_keeps_the_marks_of_reasoning_and_no_other_special_token(tiny_checkpoint: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    processor.tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "<|sys|>"]})
    chat = Chat(processor)

    def ids(text: str) -> list[int]:
        return list(processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    end = [processor.tokenizer.eos_token_id]
    assert (
        chat.reply([*ids("[THINK]no[/THINK]a red star"), *end]).replace(" ", "") == "[THINK]no[/THINK]aredstar"
    )
    assert chat.reply([*ids("<|sys|>a red star"), *end]) == "a red star"


def test_a_reply_begins_with_the_mark_that_the_template_opened(tiny_checkpoint: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    ids = list(processor.tokenizer("a red star", add_special_tokens=False)["input_ids"])
    template = processor.chat_template
    for opened, text in (("<think>\n", "<think>a red star"), ("<think>\n\n</think>\n\n", "a red star")):
        processor.chat_template = template + "{% if add_generation_prompt %}" + opened + "{% endif %}"
        chat = Chat(processor)
        chat.prompt_ids(TURNS[:1], [PICTURE])
        assert chat.reply(ids) == text
