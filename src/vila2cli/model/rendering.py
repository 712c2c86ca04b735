"""Turns to the text that a chat template makes of them, and where the answers stand in it."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from vila2cli.errors import DataError, ModelError, one_line
from vila2cli.model.control import Controls
from vila2cli.model.loading import RUN_ERRORS
from vila2cli.shards.sample import IMAGE_PLACEHOLDER, Turn

ODD: tuple[type[Exception], ...] = (TemplateError, *RUN_ERRORS)
"""What templates and image processors raise on input that they were not made for."""
_PLAIN = (Turn("user", "a"), Turn("assistant", "b"))
_SENTINEL = "quixotryx"  # a word that no conversation has
_SHOWN_ROLES = 8
Span = tuple[int, int]


class Rendering:
    """A chat template's text of turns; `appended` is the end token that it leaves out after answers."""

    def __init__(self, processor: Any, template: str | None, *, takes_images: bool) -> None:
        self._processor = processor
        self._template = {} if template is None else {"chat_template": template}
        self.arguments: Mapping[str, Any] = {}
        self._takes_images = takes_images
        self.controls = Controls(processor, getattr(processor, "tokenizer", processor))
        self.appended = ""

    def prompt(self, turns: Sequence[Turn], num_images: int) -> str:
        """The text up to where the model answers, as the processor has it."""
        return self.text(turns, num_images, answer=True, ends_from=len(turns))

    def tried(self, turns: Sequence[Turn], *, answer: bool, num_images: int = 0) -> str | None:
        """Rendered turns, None where the template refuses them."""
        try:
            return self.text(turns, num_images, answer=answer)
        except DataError:
            return None

    def text(self, turns: Sequence[Turn], num_images: int, *, answer: bool = False, ends_from: int = 0) -> str:
        """The text of turns, with `answer` up to where the model answers, from a turn on all answers ended."""
        messages = self.messages(turns, num_images)
        if self.appended:
            for message in messages[ends_from:]:
                if message["role"] == "assistant":
                    message["content"] = self._ended(message["content"])
        try:
            text = self._processor.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=answer, **self._template, **self.arguments
            )
        except TemplateSyntaxError as error:
            raise ModelError(f"the chat template cannot be parsed: {one_line(error)}") from None
        except ODD as error:
            roles = ", ".join(turn.role for turn in turns[:_SHOWN_ROLES]) or "no one before the assistant"
            raise DataError(f"the chat template refuses turns of {roles}: {one_line(error)}") from None
        assert isinstance(text, str)
        return text

    def conversation(
        self, turns: Sequence[Turn], num_images: int, *, ends_from: int = 0
    ) -> tuple[str, list[Span]]:
        """The text of a conversation, and from where to where each assistant's answer stands in it.

        An answer is what follows its own generation prompt, with what the template writes after it. Where a
        template asks in other words than it tells, it is the answer's text and the end token behind it.
        """
        whole = self.text(turns, num_images, ends_from=ends_from)
        spans: list[Span] = []
        start = 0
        for i, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            asked = self._part(turns, i, num_images, answer=True, ends_from=ends_from)
            answered = self._part(turns, i + 1, num_images, answer=False, ends_from=ends_from)
            if asked is not None and answered is not None and _begins(whole, asked, answered):
                spans.append((max(start, len(asked)), len(answered)))
            else:
                spans.append(self._sought(turns, i, num_images, whole, ends_from=ends_from))
            start = spans[-1][1]
        return whole, spans

    def messages(self, turns: Sequence[Turn], num_images: int) -> list[dict[str, Any]]:
        """The turns as a chat template takes them, with parts for images where the model takes any."""
        if not self._takes_images:  # a language model's template may take no content but a string
            if num_images:
                raise DataError("a language model is shown an image; give a vision-language model")
            return [{"role": turn.role, "content": self.controls.inert(turn.text)} for turn in turns]
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

    def _ended(self, content: Any) -> Any:
        """An answer's content, text or parts, with the end token that the template leaves out."""
        if isinstance(content, str):
            return content.rstrip() + self.appended if content else content
        if not content or content[-1]["type"] == "image":
            return [*content, {"type": "text", "text": self.appended}] if content else content
        return [*content[:-1], {"type": "text", "text": self._ended(content[-1]["text"])}]

    def _part(
        self, turns: Sequence[Turn], stop: int, num_images: int, *, answer: bool, ends_from: int
    ) -> str | None:
        marked = any(IMAGE_PLACEHOLDER in turn.text for turn in turns)
        part = turns[:stop]
        images = sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in part) if marked else num_images
        try:
            return self.text(part, images, answer=answer, ends_from=ends_from)
        except DataError:
            if not part:
                raise
            return None

    def _sought(self, turns: Sequence[Turn], i: int, num_images: int, whole: str, *, ends_from: int) -> Span:
        """Where the answer of turn i stands, found by writing a word in its place."""
        other = [*turns[:i], Turn("assistant", _SENTINEL), *turns[i + 1 :]]
        has_words = IMAGE_PLACEHOLDER not in turns[i].text
        marked = self.text(other, num_images, ends_from=ends_from) if has_words else ""
        start = marked.find(_SENTINEL)
        rest = marked[start + len(_SENTINEL) :] if start >= 0 else ""
        stop = len(whole) - len(rest)
        if start < 0 or not (whole.startswith(marked[:start]) and whole.endswith(rest) and start <= stop):
            if tuple(turns) != _PLAIN:
                self.conversation(_PLAIN, 0)  # where even that fails, the template is at fault
                raise DataError("the chat template does not render this conversation turn by turn")
            raise ModelError(
                "the chat template does not render a conversation turn by turn, so its label mask "
                "is unknown; use a template that only appends"
            )
        return start, stop + (0 if self.appended else len(self.controls.at(whole, stop)))


def _begins(whole: str, asked: str, answered: str) -> bool:
    return whole.startswith(asked) and whole.startswith(answered) and len(asked) <= len(answered)


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
