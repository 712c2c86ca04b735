"""A conversation as the chat protocol has it, its images as data: URLs."""

import base64
import io
from collections.abc import Iterator
from typing import Any

from PIL import Image

from vila2cli.engine import AnyRequest
from vila2cli.model.chat import turn_parts
from vila2cli.model.control import visibly_inert


def messages_of(request: AnyRequest, image_format: str) -> list[dict[str, Any]]:
    """The turns of a request; raises DataError where they name more or fewer images than there are."""
    images = iter(request.images)
    return [
        {"role": turn.role, "content": _content(parts, images, image_format)}
        for turn, parts in zip(request.messages, turn_parts(request.messages, len(request.images)), strict=True)
    ]


def _content(
    parts: list[str | None], images: Iterator[Image.Image], image_format: str
) -> str | list[dict[str, Any]]:
    if None not in parts:
        return visibly_inert("".join(part for part in parts if part))
    return [
        {"type": "image_url", "image_url": {"url": data_url(next(images), image_format)}}
        if part is None
        else {"type": "text", "text": visibly_inert(part)}
        for part in parts
    ]


def data_url(image: Image.Image, image_format: str) -> str:
    """An image as a data: URL; png keeps every pixel."""
    file = io.BytesIO()
    if image_format == "png":
        image.save(file, "PNG", compress_level=1)
    else:
        image.save(file, "JPEG", quality=95)
    return f"data:image/{image_format};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
