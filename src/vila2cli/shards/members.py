"""The members of one key: which extensions are read, and what makes them a sample or not."""

from dataclasses import dataclass, field
from typing import Any

from vila2cli.errors import DataError
from vila2cli.files import load_json
from vila2cli.shards.sample import EncodedImage, Turn
from vila2cli.shards.tarfiles import image_index, is_unread_image, key_problem

NO_IMAGE = "no-image"
"""Why a sample is no use where pictures are described, whether none is there or none that can be read."""


@dataclass(slots=True)
class Group:
    """Adjacent members of one key; `members` maps the extensions we read to their bytes."""

    key: str
    members: dict[str, bytes | None] = field(default_factory=dict)
    extensions: set[str] = field(default_factory=set)


class Unusable(Exception):
    """A group that makes no sample: why in one word, and in full."""

    def __init__(self, reason: str, error: str):
        super().__init__(error)
        self.reason = reason


def is_known(extension: str) -> bool:
    return extension in ("txt", "json") or image_index(extension) is not None


def is_counted(group: Group) -> bool:
    return bool(group.members) or any(is_known(name.rpartition(".")[2]) for name in group.extensions)


def parse_group(group: Group) -> tuple[tuple[EncodedImage, ...], str | None, dict[str, Any]]:
    """Images in order, text and metadata of a group; raises Unusable with the reason."""
    try:
        group.key.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unusable("not-utf8", f"the key holds half a character: {error.reason}") from None
    if (".." in group.key or group.key[0] in "_/") and (problem := key_problem(group.key)):
        raise Unusable("bad-key", problem)
    if not group.members:
        extensions = ", ".join(sorted(group.extensions))
        raise Unusable("dotted-name", f"a key ends at the first dot, which leaves the extension {extensions!r}")
    text: str | None = None
    meta: dict[str, Any] = {}
    images: list[tuple[int, EncodedImage]] = []
    for extension, data in group.members.items():
        assert data is not None
        if extension == "txt":
            text = _decode_text(data)
        elif extension == "json":
            meta = _parse_meta(data)
        else:
            index = image_index(extension)
            assert index is not None
            images.append((index, EncodedImage(data, extension.rpartition(".")[2])))
    if not images and (unread := sorted(filter(is_unread_image, group.extensions))):
        raise Unusable(
            NO_IMAGE, f"its picture ends in .{unread[0]}, which is not read: a picture is KEY.jpg or KEY.1.jpg"
        )
    if "interleaved" in meta:
        _check_document(meta["interleaved"], len(images))
    return _in_order(images), text, meta


def _in_order(images: list[tuple[int, EncodedImage]]) -> tuple[EncodedImage, ...]:
    if any(not image.data for _, image in images):
        raise Unusable("empty-image", "an image of this sample has no bytes")
    if len(images) == 1:
        return (images[0][1],)
    if len({index for index, _ in images}) < len(images):
        raise Unusable("ambiguous-image", "two images have the same place, like KEY.jpg and KEY.png")
    return tuple(image for _, image in sorted(images, key=lambda pair: pair[0]))


def _decode_text(data: bytes) -> str:
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise Unusable("not-utf8", f"the text is not UTF-8: {error}") from None


def _parse_meta(data: bytes) -> dict[str, Any]:
    try:
        meta = load_json(data)
    except UnicodeDecodeError as error:
        raise Unusable("not-utf8", f"the JSON is not UTF-8: {error}") from None
    except UnicodeEncodeError as error:
        raise Unusable("not-utf8", f"the JSON holds half a character: {error.reason}") from None
    except ValueError as error:
        raise Unusable("bad-json", f"the JSON cannot be parsed: {error}") from None
    if not isinstance(meta, dict):
        raise Unusable("bad-json", f"the JSON should be an object, not a {type(meta).__name__}")
    if "messages" in meta:
        _check_messages(meta["messages"])
    return meta


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Unusable("bad-messages", "'messages' should be a list of objects with a role and a content")
    try:
        for message in messages:
            Turn.from_json(message)
    except DataError as error:
        raise Unusable("bad-messages", str(error)) from None


def _check_document(document: object, num_images: int) -> None:
    """A web document needs one text or one image at every position, and all its images in the shard."""
    texts, places = map(document.get, ("texts", "images")) if isinstance(document, dict) else (None, None)
    if not isinstance(texts, list) or not isinstance(places, list) or len(texts) != len(places):
        raise Unusable(
            "bad-document", "'interleaved' should hold 'texts' and 'images', two lists of one length"
        )
    if any((text is None) == (place is None) for text, place in zip(texts, places, strict=True)):
        raise Unusable("bad-document", "every position of 'interleaved' holds either a text or an image")
    if not all(text is None or isinstance(text, str) for text in texts):
        raise Unusable("bad-document", "a text of 'interleaved' is no text")
    if (stated := sum(place is not None for place in places)) != num_images:
        raise Unusable("bad-document", f"'interleaved' names {stated} images, {num_images} are there")
