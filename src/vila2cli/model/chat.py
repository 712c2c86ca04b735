"""Turns and images to token ids: one rendering for training and for every engine.

The label mask is known while rendering, because every assistant turn is rendered as the text that
follows its own generation prompt; nothing is searched for in text or ids afterwards.

Shapes: N images of the batch, C colour channels, H x W pixels.
"""

from array import array
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from PIL import Image

from vila2cli.errors import DataError, ModelError
from vila2cli.sample import IMAGE_PLACEHOLDER, Turn
from vila2cli.text.reasoning import is_mark, opens_reasoning

IGNORE_INDEX = -100
_MAX_PROMPTS = 256
_MAX_SIZES = 1024


class Chat:
    """A processor's chat template, tokenizer and image processor behind one interface.

    The processor of a language model is its tokenizer; such a chat has no place for images.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        if not getattr(processor, "chat_template", None):
            raise ModelError("the checkpoint has no chat template; add chat_template.jinja to its folder")
        self.image_token: str = getattr(processor, "image_token", "")
        self.image_token_id = self.tokenizer.convert_tokens_to_ids(self.image_token) if self.image_token else -1
        self._image_ids: dict[tuple[int, int], array[int]] = {}  # the one used last stands last
        # Most prompts are one of a few.
        self._prompts: dict[tuple[tuple[Turn, ...], int], list[list[int]]] = {}
        self._opened = ""  # the mark of reasoning that the template ends every prompt with
        special = {*self.tokenizer.all_special_tokens, self.image_token}
        self._special = sorted((token for token in special if token), key=len, reverse=True)

    def prompt_ids(
        self, turns: Sequence[Turn], images: Sequence[Image.Image], *, expand: bool = True
    ) -> list[int]:
        """The ids up to where the model answers.

        With `expand` every image stands as the run of ids that the model puts its features on;
        without, as one placeholder id (what vLLM takes).
        """
        key = (tuple(turns), len(images))
        if key not in self._prompts:
            if len(self._prompts) >= _MAX_PROMPTS:
                self._prompts.clear()
            text = self._render(turns, len(images), answer=True)
            self._opened = opens_reasoning(text)
            self._prompts[key] = self._pieces(text)
        return self._joined(self._prompts[key], list(images), expand=expand)

    def reply(self, ids: Sequence[int]) -> str:
        """Generated ids as text without special tokens, but with every mark of reasoning.

        Where the template opens the reasoning itself, at the prompt's end, the text begins with that mark.
        """
        special, marks = self._special_ids
        if marks.isdisjoint(ids):
            text = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        else:
            kept = [token for token in ids if token in marks or token not in special]
            text = self.tokenizer.decode(kept, skip_special_tokens=False)
        return f"{self._opened}{text}".strip()

    @cached_property
    def _special_ids(self) -> tuple[frozenset[int], frozenset[int]]:
        """The ids of special tokens, and those of them that mark reasoning, as they do in some models."""
        known = getattr(self.tokenizer, "added_tokens_decoder", {})
        special = {int(token): str(added) for token, added in known.items() if added.special}
        return frozenset(special), frozenset(token for token, text in special.items() if is_mark(text))

    def answer_ids(self, text: str) -> list[int]:
        """The ids of an assistant's answer as training renders it, its end token left out."""
        return list(self.tokenizer(self._inert(text), add_special_tokens=False)["input_ids"])

    def train_ids(self, turns: Sequence[Turn], images: Sequence[Image.Image]) -> tuple[list[int], list[int]]:
        """The ids of a whole conversation and its labels, -100 where nothing is trained.

        Trained are the assistants' turns up to and with their end token; image ids never.
        Raises DataError when no token would be trained.
        """
        remaining = list(images)
        ids: list[int] = []
        labels: list[int] = []
        for text, is_answer in self._segments(turns, len(images)):
            part = self._ids(text, remaining, expand=True)
            ids += part
            labels += self._answer_labels(part) if is_answer else [IGNORE_INDEX] * len(part)
        if remaining:
            raise DataError(f"{len(remaining)} images of the sample have no place in its turns")
        if all(label == IGNORE_INDEX for label in labels):
            raise DataError("no token of the sample would be trained: it has no assistant turn with text")
        return ids, labels

    def pixel_inputs(self, images: Sequence[Image.Image]) -> dict[str, Any]:
        """The model's image tensors for the images of a whole batch in order, {} for none.

        `pixel_values` is N x C x H x W, or N x 1 x C x H x W where the class wants images by sample.
        """
        if not images:
            return {}
        nested = hasattr(self.processor.image_processor, "do_image_splitting")
        rows = [[image] for image in images] if nested else list(images)
        tensors = dict(self.processor.image_processor(images=rows, return_tensors="pt"))
        tensors.pop("num_patches", None)  # InternVL's, for its processor and not for the model
        return tensors

    def _render(self, turns: Sequence[Turn], num_images: int, *, answer: bool = False) -> str:
        messages = self._messages(turns, num_images) if self.image_token else self._texts(turns, num_images)
        text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer)
        assert isinstance(text, str)
        return text

    def _messages(self, turns: Sequence[Turn], num_images: int) -> list[dict[str, Any]]:
        return [
            {
                "role": turn.role,
                "content": [
                    {"type": "image"} if part is None else {"type": "text", "text": self._inert(part)}
                    for part in parts
                ],
            }
            for turn, parts in zip(turns, turn_parts(turns, num_images), strict=True)
        ]

    def _texts(self, turns: Sequence[Turn], num_images: int) -> list[dict[str, Any]]:
        """The messages of a language model, whose template may take no content but a string."""
        if num_images:
            raise DataError("a language model is shown an image; give a vision-language model")
        return [{"role": turn.role, "content": self._inert(turn.text)} for turn in turns]

    def _inert(self, text: str) -> str:
        """Text in which no special token can be spelled, so that a caption cannot end its own turn."""
        for token in self._special:
            if token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _segments(self, turns: Sequence[Turn], num_images: int) -> list[tuple[str, bool]]:
        """The conversation's text cut where each assistant's answer begins and ends."""
        whole = self._render(turns, num_images)
        segments: list[tuple[str, bool]] = []
        start = 0
        for i, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            asked = self._render_part(turns, i, num_images, answer=True)
            answered = self._render_part(turns, i + 1, num_images, answer=False)
            if not (whole.startswith(asked) and whole.startswith(answered)):
                raise ModelError(
                    "the chat template does not render a conversation turn by turn, so its label mask "
                    "is unknown; use a template that only appends"
                )
            segments += [(whole[start : len(asked)], False), (whole[len(asked) : len(answered)], True)]
            start = len(answered)
        return [*segments, (whole[start:], False)]

    def _render_part(self, turns: Sequence[Turn], stop: int, num_images: int, *, answer: bool) -> str:
        marked = any(IMAGE_PLACEHOLDER in turn.text for turn in turns)
        part = turns[:stop]
        images = sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in part) if marked else num_images
        return self._render(part, images, answer=answer)

    def _ids(self, text: str, images: list[Image.Image], *, expand: bool) -> list[int]:
        """Tokenise rendered text, taking one image off `images` for every placeholder in it."""
        return self._joined(self._pieces(text), images, expand=expand)

    def _pieces(self, text: str) -> list[list[int]]:
        """The ids of rendered text before, between and after its images."""
        pieces = text.split(self.image_token) if self.image_token else [text]
        return [
            list(self.tokenizer(piece, add_special_tokens=False)["input_ids"]) if piece else []
            for piece in pieces
        ]

    def _joined(self, pieces: list[list[int]], images: list[Image.Image], *, expand: bool) -> list[int]:
        ids = list(pieces[0])
        for piece in pieces[1:]:
            image = images.pop(0)
            ids += self._expanded(image) if expand else [self.image_token_id]
            ids += piece
        return ids

    def _expanded(self, image: Image.Image) -> "array[int]":
        """The ids that an image of this size stands as, kept for the sizes seen last."""
        ids = self._image_ids.pop(image.size, None)
        if ids is None:
            inputs = self.processor(text=[self.image_token], images=[[image]], add_special_tokens=False)
            ids = array("i", inputs["input_ids"][0])
        if len(self._image_ids) >= _MAX_SIZES:
            del self._image_ids[next(iter(self._image_ids))]
        self._image_ids[image.size] = ids
        return ids

    def _answer_labels(self, ids: list[int]) -> list[int]:
        labels = [IGNORE_INDEX if token == self.image_token_id else token for token in ids]
        ends = [i for i, token in enumerate(ids) if token == self.tokenizer.eos_token_id]
        stop = ends[-1] + 1 if ends else len(ids)
        return labels[:stop] + [IGNORE_INDEX] * (len(ids) - stop)


def turn_parts(turns: Sequence[Turn], num_images: int) -> list[list[str | None]]:
    """Each turn as its texts in order, with None where an image stands.

    Where no turn names an image they lead the first user turn. Raises DataError when the turns name
    another number of images than there are.
    """
    marked = sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in turns)
    first_user = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
    if marked not in (0, num_images) or (num_images and not marked and first_user is None):
        raise DataError(f"the turns name {marked} images, the sample has {num_images}")
    parts: list[list[str | None]] = []
    for i, turn in enumerate(turns):
        own: list[str | None] = [None] * num_images if i == first_user and not marked else []
        for j, piece in enumerate(turn.text.split(IMAGE_PLACEHOLDER)):
            own += [None] if j else []
            own += [piece] if piece else []
        parts.append(own)
    return parts


def collate(
    samples: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int, *, left: bool = False
) -> Mapping[str, list[list[int]]]:
    """Pad (ids, labels) pairs to one length: `input_ids`, `labels` and `attention_mask`, each B x S."""
    longest = max(len(ids) for ids, _ in samples)
    batch: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
    for ids, labels in samples:
        gap = longest - len(ids)
        before, after = (gap, 0) if left else (0, gap)
        batch["input_ids"].append([pad_id] * before + list(ids) + [pad_id] * after)
        batch["labels"].append([IGNORE_INDEX] * before + list(labels) + [IGNORE_INDEX] * after)
        batch["attention_mask"].append([0] * before + [1] * len(ids) + [0] * after)
    return batch
