"""Turns and images to token ids: one rendering for training and for every engine.

The label mask is known while rendering, because every assistant turn is rendered as the text that
follows its own generation prompt; nothing is searched for in text or ids afterwards.

Shapes: N images of the batch, C colour channels, H x W pixels.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from PIL import Image

from vila2cli.errors import DataError, ModelError, one_line
from vila2cli.model.control import Controls
from vila2cli.model.templates import check_arguments
from vila2cli.shards.sample import IMAGE_PLACEHOLDER, Turn
from vila2cli.text.reasoning import is_mark, opens_reasoning
from vila2cli.text.stops import stopped_at

IGNORE_INDEX = -100
_ODD = (
    TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What templates and image processors raise on input that they were not made for."""
_PLAIN = (Turn("user", "a"), Turn("assistant", "b"))
_SHOWN_ROLES = 8
_MAX_PROMPTS = 256
_MAX_SIZES = 1024
_QUESTION, _ANSWER = "A question.", "An answer."
_Part = tuple[list[list[int]], bool]
"""Ids before, between and after the images of a stretch of a conversation, and whether it is an answer."""


class Chat:
    """A processor's chat template, tokenizer and image processor behind one interface.

    The processor of a language model is its tokenizer; such a chat has no place for images. `arguments` go to
    the template by name; raises ModelError for one that it does not use.
    """

    def __init__(self, processor: Any, arguments: Mapping[str, Any] | None = None) -> None:
        self.processor = processor
        self.arguments = dict(arguments or {})
        self.tokenizer = getattr(processor, "tokenizer", processor)
        if not getattr(processor, "chat_template", None):
            raise ModelError("the checkpoint has no chat template; add chat_template.jinja to its folder")
        check_arguments(processor.chat_template, self.arguments)
        self.image_token: str = getattr(processor, "image_token", "")
        self.image_token_id = self.tokenizer.convert_tokens_to_ids(self.image_token) if self.image_token else -1
        self._image_ids: dict[tuple[int, int], array[int]] = {}  # the most recently used is last
        # Most prompts are one of a few.
        self._prompts: dict[tuple[tuple[Turn, ...], int], list[list[int]]] = {}
        self._outlines: dict[Any, Any] = {}
        self._appended = ""  # what the template leaves out at the end of an answer,
        self._appends_in_prompts = False  # and before the next question as well
        self._opened = ""  # the mark of reasoning that the template ends every prompt with
        self.controls = Controls(self.processor, self.tokenizer)
        self._read_template()

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
            ((self._prompts[key], _),) = self._kept_apart(self._prompt, turns, len(images))
        remaining = list(images)
        ids = self._joined(self._prompts[key], remaining, expand=expand)
        _check_placed(remaining)
        return ids

    def reply(self, ids: Sequence[int], stops: Sequence[str] = ()) -> str:
        """Generated ids as text without special tokens, but with every mark of reasoning.

        Where the template opens the reasoning itself, at the prompt's end, the text begins with that mark. The
        one of `stops` that is complete first is left out, and what follows it.
        """
        text = self.generated(ids)
        return f"{self._opened}{text[: stopped_at(text, stops)]}".strip()

    def generated(self, ids: Sequence[int]) -> str:
        """Generated ids as text, as `reply` has them, before anything is cut or stripped."""
        special, marks = self._special_ids
        if marks.isdisjoint(ids):
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        kept = [token for token in ids if token in marks or token not in special]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False))

    def check_system(self, system: str) -> None:
        """Raise ModelError where the template refuses a system prompt, or leaves it out."""
        turns = [Turn("system", system), Turn("user", _QUESTION)]
        text = self._tried(turns, answer=True)
        if text is None or self.controls.inert(system).strip() not in text:
            what = "refuses" if text is None else "leaves out"
            raise ModelError(f"the model's chat template {what} a system prompt: set none (system)")

    @cached_property
    def _special_ids(self) -> tuple[frozenset[int], frozenset[int]]:
        """The ids of special tokens, and those of them that mark reasoning, as they do in some models."""
        known = getattr(self.tokenizer, "added_tokens_decoder", {})
        special = {int(token): str(added) for token, added in known.items() if added.special}
        return frozenset(special), frozenset(token for token, text in special.items() if is_mark(text))

    def answer_ids(self, text: str) -> list[int]:
        """The ids of an assistant's answer as training renders it, its end token left out.

        Raises DataError for a text that cannot be told from control tokens.
        """
        for make in (self.controls.inert, self.controls.firm):
            ids = list(self.tokenizer(make(text), add_special_tokens=False)["input_ids"])
            if not self.controls.among(ids):
                return ids
        raise DataError(_SPELLED)

    def train_ids(self, turns: Sequence[Turn], images: Sequence[Image.Image]) -> tuple[list[int], list[int]]:
        """The ids of a whole conversation and its labels, -100 where nothing is trained.

        Trained are the assistants' turns up to and with their end token; image ids never. Where the
        template ends no turn, the tokenizer's end token does. Raises DataError when no token would be
        trained, ModelError when nothing at all ends an answer.
        """
        if not self.end_ids:
            raise ModelError(
                "neither the chat template nor the tokenizer has a token that ends an answer, so a model "
                "trained with them would never stop; set eos_token in tokenizer_config.json"
            )
        remaining = list(images)
        ids: list[int] = []
        labels: list[int] = []
        for pieces, is_answer in self._kept_apart(self._conversation, turns, len(images)):
            part = self._joined(pieces, remaining, expand=True)
            ids += part
            labels += self._answer_labels(part) if is_answer else [IGNORE_INDEX] * len(part)
        _check_placed(remaining)
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
        try:
            tensors = dict(self.processor.image_processor(images=rows, return_tensors="pt"))
        except _ODD as error:
            raise DataError(f"the image processor fails on {_sizes(images)}: {one_line(error)}") from None
        tensors.pop("num_patches", None)  # InternVL's, for its processor and not for the model
        return tensors

    def _read_template(self) -> None:
        """See what the template writes by itself: which tokens steer, and what ends an answer.

        `end_ids` are all tokens that do: the first one that the template writes after an answer, be it only
        before the next question, and the tokenizer's own.
        """
        asked, answered = Turn("user", _QUESTION), Turn("assistant", _ANSWER)
        whole = self._tried([asked, answered], answer=False)
        longer = self._tried([asked, answered, asked], answer=False)
        written = [whole, longer, self._tried([asked], answer=True)]
        self._opened = opens_reasoning(written[2] or "")
        written.append(self._tried([Turn("system", "Rules."), asked], answer=True))
        self.controls = Controls(self.processor, self.tokenizer, filter(None, written))
        last = self._controls_after_answer(whole or "")
        next_ones = self._controls_after_answer((longer or "").rpartition(_QUESTION)[0])
        eos = self.tokenizer.eos_token_id
        ends = {*last[:1], *(next_ones[:1] if not last else ()), *(() if eos is None else (int(eos),))}
        self.end_ids = tuple(sorted(ends))
        if whole and _ANSWER in whole and not last and eos is not None:
            self._appended, self._appends_in_prompts = str(self.tokenizer.eos_token), not next_ones

    def _controls_after_answer(self, text: str) -> tuple[int, ...]:
        after = text.rpartition(_ANSWER)[2] if _ANSWER in text else ""
        return (
            self.controls.among(self.tokenizer(after, add_special_tokens=False)["input_ids"]) if after else ()
        )

    def _tried(self, turns: Sequence[Turn], *, answer: bool) -> str | None:
        """Rendered turns, None where the template refuses them."""
        try:
            return self._render(turns, 0, answer=answer)
        except DataError:
            return None

    def _render(
        self, turns: Sequence[Turn], num_images: int, *, answer: bool = False, ended: bool = True
    ) -> str:
        """The text of turns, with `answer` up to where the model answers, with `ended` all answers ended."""
        messages = self._messages(turns, num_images) if self.image_token else self._texts(turns, num_images)
        if ended and self._appended:
            for message in messages:
                if message["role"] == "assistant":
                    message["content"] = self._ended(message["content"])
        try:
            text = self.processor.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=answer, **self.arguments
            )
        except TemplateSyntaxError as error:
            raise ModelError(f"the chat template cannot be parsed: {one_line(error)}") from None
        except _ODD as error:
            roles = ", ".join(turn.role for turn in turns[:_SHOWN_ROLES]) or "no one before the assistant"
            raise DataError(f"the chat template refuses turns of {roles}: {one_line(error)}") from None
        assert isinstance(text, str)
        return text

    def _messages(self, turns: Sequence[Turn], num_images: int) -> list[dict[str, Any]]:
        return [
            {
                "role": turn.role,
                "content": [
                    {"type": "image"} if part is None else {"type": "text", "text": self.controls.inert(part)}
                    for part in parts
                ],
            }
            for turn, parts in zip(turns, turn_parts(turns, num_images), strict=True)
        ]

    def _texts(self, turns: Sequence[Turn], num_images: int) -> list[dict[str, Any]]:
        """The messages of a language model, whose template may take no content but a string."""
        if num_images:
            raise DataError("a language model is shown an image; give a vision-language model")
        return [{"role": turn.role, "content": self.controls.inert(turn.text)} for turn in turns]

    def _ended(self, content: Any) -> Any:
        """An answer's content, text or parts, with the end token that the template leaves out."""
        if isinstance(content, str):
            return content.rstrip() + self._appended if content else content
        if not content or content[-1]["type"] == "image":
            return [*content, {"type": "text", "text": self._appended}] if content else content
        return [*content[:-1], {"type": "text", "text": self._ended(content[-1]["text"])}]

    def _kept_apart(
        self, cut: Callable[[Sequence[Turn], int], list[_Part]], turns: Sequence[Turn], num_images: int
    ) -> list[_Part]:
        """The parts of a conversation, with the control tokens that its turns have with plain text in them.

        Raises DataError where a text brings others in however it is written, or swallows one.
        """
        plain = [_with_texts(turn, lambda text: "word" if text.strip() else text) for turn in turns]
        key = (cut.__name__, tuple(plain), num_images)
        if key not in self._outlines:
            if len(self._outlines) >= _MAX_PROMPTS:
                self._outlines.clear()
            self._outlines[key] = self._outline(cut(plain, num_images))
        firm = self.controls.firm
        for make in (str, firm, lambda text: f" {firm(text)} "):
            parts = cut([_with_texts(turn, make) for turn in turns], num_images)
            if self._outline(parts) == self._outlines[key]:
                return parts
        raise DataError(_SPELLED)

    def _outline(self, parts: list[_Part]) -> list[list[tuple[int, ...]]]:
        """The control tokens around and between the images of each part."""
        return [[self.controls.among(ids) for ids in pieces] for pieces, _ in parts]

    def _prompt(self, turns: Sequence[Turn], num_images: int) -> list[_Part]:
        text = self._render(turns, num_images, answer=True, ended=self._appends_in_prompts)
        return [(self._pieces(text), False)]

    def _conversation(self, turns: Sequence[Turn], num_images: int) -> list[_Part]:
        return [(self._pieces(text), is_answer) for text, is_answer in self._segments(turns, num_images)]

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
                if tuple(turns) != _PLAIN:
                    self._segments(_PLAIN, 0)  # where even that fails, the template is at fault
                    raise DataError("the chat template does not render this conversation turn by turn")
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

    def _pieces(self, text: str) -> list[list[int]]:
        """The ids of rendered text before, between and after its images."""
        pieces = text.split(self.image_token) if self.image_token else [text]
        return [
            list(self.tokenizer(piece, add_special_tokens=False)["input_ids"]) if piece else []
            for piece in pieces
        ]

    def _joined(self, pieces: list[list[int]], images: list[Image.Image], *, expand: bool) -> list[int]:
        """The ids of a part, taking one image off `images` for every place between its pieces."""
        ids = list(pieces[0])
        for piece in pieces[1:]:
            if not images:
                raise DataError("the chat template has places for more images than there are")
            image = images.pop(0)
            ids += self._expanded(image) if expand else [self.image_token_id]
            ids += piece
        return ids

    def _expanded(self, image: Image.Image) -> "array[int]":
        """The ids that an image of this size stands as, kept for the sizes seen last."""
        ids = self._image_ids.pop(image.size, None)
        if ids is None:
            try:
                inputs = self.processor(text=[self.image_token], images=[[image]], add_special_tokens=False)
            except _ODD as error:
                raise DataError(f"the image processor fails on {_sizes([image])}: {one_line(error)}") from None
            ids = array("i", inputs["input_ids"][0])
        if len(self._image_ids) >= _MAX_SIZES:
            del self._image_ids[next(iter(self._image_ids))]
        self._image_ids[image.size] = ids
        return ids

    def _answer_labels(self, ids: list[int]) -> list[int]:
        labels = [IGNORE_INDEX if token == self.image_token_id else token for token in ids]
        ends = [i for i, token in enumerate(ids) if token in self.end_ids]
        stop = ends[-1] + 1 if ends else len(ids)
        return labels[:stop] + [IGNORE_INDEX] * (len(ids) - stop)


_SPELLED = "its text cannot be told from the chat template's own tokens"


def _with_texts(turn: Turn, make: Callable[[str], str]) -> Turn:
    """A turn with its texts before, between and after the images rewritten by `make`."""
    return Turn(turn.role, IMAGE_PLACEHOLDER.join(map(make, turn.text.split(IMAGE_PLACEHOLDER))))


def _check_placed(remaining: Sequence[Image.Image]) -> None:
    if remaining:
        raise DataError(f"{len(remaining)} images of the sample have no place in its turns")


def _sizes(images: Sequence[Image.Image]) -> str:
    """The sizes of images, of which one may be the odd one."""
    sides = sorted({f"{image.width}x{image.height}" for image in images})
    return f"an image of {sides[0]}" if len(sides) == 1 else f"images of {', '.join(sides[:_SHOWN_ROLES])}"


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
