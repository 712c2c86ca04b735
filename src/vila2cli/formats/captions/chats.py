"""Conversations as LLaVA, ShareGPT, the Cauldron and chat templates write them, as the messages of a sample."""

from collections.abc import Iterator, Mapping
from typing import Any

from vila2cli.formats.reading import Row
from vila2cli.shards.sample import IMAGE_PLACEHOLDER

FIELDS = ("conversations", "messages", "texts")
"""Under which a row has its turns, the first that holds any."""
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_BAD = "bad-conversation"


def has_turns(row: Row) -> bool:
    """Whether a row holds a conversation: one of FIELDS is a list of objects."""
    return any(_are_turns(row.get(name)) for name in FIELDS)


def messages_of(row: Row, num_images: int) -> list[dict[str, str]]:
    """The messages of a row with so many images; raises RowError for what is no conversation."""
    turns = next((row.get(name) for name in FIELDS if _are_turns(row.get(name))), None)
    if turns is None:
        raise row.error("'conversations' or 'messages' should be a list of turns", _BAD)
    messages = [message for turn in turns for message in _messages(row, turn)]
    roles = [message["role"] for message in messages if message["role"] != "system"]
    if roles != ["user", "assistant"] * (len(roles) // 2) or not roles:
        order = ", ".join(roles[:6])
        raise row.error(f"turns should go human, gpt, human, gpt; got {order}", _BAD)
    marked = sum(message["content"].count(IMAGE_PLACEHOLDER) for message in messages)
    if marked not in (0, num_images):
        raise row.error(f"the turns name {marked} images, the item has {num_images}", "image-count")
    return messages


def _are_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def _messages(row: Row, turn: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """A turn as one message, or of the Cauldron, which has question and answer in one, as two."""
    pairs = [(turn.get("from", turn.get("role")), turn.get("value", turn.get("content")))]
    if {"user", "assistant"} <= turn.keys():
        pairs = [(role, turn[role]) for role in ("user", "assistant")]
    for name, content in pairs:
        role = _ROLES.get(str(name))
        text = _joined(content) if isinstance(content, list) else content
        if role is None or not isinstance(text, str):
            raise row.error("a turn needs 'from' (human or gpt) and a text 'value', or role and content", _BAD)
        yield {"role": role, "content": text}


def _joined(parts: list[Any]) -> str | None:
    """The parts of a chat template's content as one text, None where one is neither text nor picture."""
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = (
            IMAGE_PLACEHOLDER
            if kind in ("image", "image_url")
            else part.get("text")
            if kind == "text"
            else None
        )
        if not isinstance(text, str):
            return None
        texts.append(text)
    return "".join(texts)
