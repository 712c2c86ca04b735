"""The files of the sample that an item becomes."""

from collections.abc import Sequence
from typing import Any

from vila2cli.files import to_json_bytes
from vila2cli.formats.captions.formats import Item
from vila2cli.formats.captions.images import ImageStore
from vila2cli.shards.members import Unusable
from vila2cli.shards.sample import EncodedImage


def members_of(item: Item | Unusable, store: ImageStore) -> tuple[dict[str, bytes], int]:
    """The files of a sample and how many of its images are missing; raises Unusable."""
    if isinstance(item, Unusable):
        raise item
    found: list[EncodedImage] = []
    missing: list[str] = []
    for image in item.images:
        try:
            found.append(image if isinstance(image, EncodedImage) else store.find(image))
        except Unusable as error:
            if not item.may_lose:
                raise Unusable(error.reason, f"{item.name}: {error}") from None
            missing.append(str(image))
    if item.may_lose and not found:
        raise Unusable("missing-image", f"{item.name}: none of its images is there: {', '.join(missing)}")
    if item.images and not item.text and not {"messages", "interleaved"} & item.meta.keys():
        raise Unusable("no-caption", f"{item.name} has no text")
    several = len(found) > 1
    members = {f"{i}.{one.extension}" if several else one.extension: one.data for i, one in enumerate(found)}
    if item.text:
        members["txt"] = item.text.strip().encode("utf-8", "replace")
    if meta := _meta(item, missing):
        try:
            members["json"] = to_json_bytes(meta)
        except (ValueError, TypeError) as error:
            raise Unusable("bad-json", f"{item.name}: {error}") from None
    return members, len(missing)


def _meta(item: Item, missing: Sequence[str]) -> dict[str, Any]:
    """KEY.json: of a document the places of the images that are there, counted from 0."""
    meta = dict(item.meta)
    if not item.may_lose:
        return meta
    texts: list[str | None] = []
    places: list[int | None] = []
    gone = list(missing)
    num = 0
    for text, image in zip(meta["interleaved"]["texts"], meta["interleaved"]["images"], strict=True):
        if image is not None and image in gone:
            gone.remove(image)
            continue
        texts.append(text)
        places.append(None if image is None else num)
        num += image is not None
    meta["interleaved"] = {"texts": texts, "images": places}
    return meta | ({"missing_images": list(missing)} if missing else {})
