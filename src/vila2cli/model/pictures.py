"""Images to what a model takes of them: the ids that they stand as, and tensors, as its processor has it."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from PIL import Image
from transformers.processing_utils import ProcessingKwargs

from vila2cli.errors import DataError, one_line
from vila2cli.model.rendering import ODD

MAX_SIZES = 1024
_SHOWN_SIZES = 8
OF_TEXT = ("input_ids", "attention_mask", "labels", "text_replacement_offsets", "offset_mapping")
Nested = Sequence[Sequence[Image.Image]]
_Value = TypeVar("_Value")
_Key = tuple[int, int, int]
"""Width and height of an image, and the number of images that it is one of, where that matters."""


class Pictures:
    """A processor's image side; `place` is what a chat template writes where an image stands, "" for none.

    `by_number` says whether an image stands as another text beside others than when it is the only one.
    `alone` says whether images may be handed to the image processor by itself, with the settings that the
    processor gives it, or whether the processor has to be called as a whole. `names` are those of the tensors
    that the model takes, all of them while that is not known.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self.place = str(getattr(processor, "image_token", None) or "")
        self.place_id = int(self._tokenizer.convert_tokens_to_ids(self.place)) if self.place else -1
        self.by_number = False
        self.alone = True
        self.names: frozenset[str] | None = None
        self._settings: dict[str, dict[str, Any]] | None = None
        self._ids: dict[_Key, array[int]] = {}  # the most recently used is last
        self._texts: dict[_Key, str] = {}

    @property
    def feature_id(self) -> int:
        """The id of the tokens that features of images take the place of, -1 for a model without images."""
        own = getattr(self._tokenizer, "image_token_id", None)
        return self.place_id if own is None or not self.place else int(own)

    def ids(self, image: Image.Image, number: int) -> "array[int]":
        """The ids that an image of this size, one of a number of images, stands as; the last ones are kept."""
        key = self._key(image, number)
        known = self._ids.pop(key, None)
        if known is None:
            found = self._expand(image, key[2])
            if isinstance(found, str):
                found = self._tokenizer(found, add_special_tokens=False)["input_ids"]
            known = array("i", found)
        return _keep(self._ids, key, known)

    def text(self, image: Image.Image, number: int) -> str | None:
        """The text that an image of this size stands as, None where the processor does not tell."""
        key = self._key(image, number)
        known = self._texts.pop(key, None)
        if known is None:
            found = self._expand(image, key[2])
            if not isinstance(found, str):
                return None
            known = found
        return _keep(self._texts, key, known)

    def _key(self, image: Image.Image, number: int) -> _Key:
        return (*image.size, number if self.by_number else 1)

    def tensors(self, images: Nested) -> dict[str, Any]:
        """The model's image tensors for the images of each sample of a batch, {} for none.

        Where images are cut into tiles, one image makes a row of `pixel_values`.
        """
        if not any(images):
            return {}
        rows = [list(own) for own in images if own]
        if hasattr(self._processor.image_processor, "do_image_splitting"):
            rows = [[image] for own in rows for image in own]
        try:
            made = self._alone(rows) if self.alone else self._whole(rows)
        except ODD as error:
            shown = [image for own in images for image in own]
            raise DataError(f"the image processor fails on {_sizes(shown)}: {one_line(error)}") from None
        return {name: value for name, value in made.items() if self.names is None or name in self.names}

    def _alone(self, rows: list[list[Image.Image]]) -> dict[str, Any]:
        made = dict(self._processor.image_processor(images=rows, **self._merged()["images_kwargs"]))
        unused = ("num_patches", *getattr(self._processor, "unused_input_names", ()))
        return {name: value for name, value in made.items() if name not in unused}

    def _whole(self, rows: list[list[Image.Image]]) -> dict[str, Any]:
        texts = [self.place * len(own) for own in rows]
        made = self._processor(text=texts, images=rows, padding=True, return_tensors="pt")
        return {name: value for name, value in made.items() if name not in OF_TEXT}

    def laid_out(self, text: str, images: Sequence[Image.Image], *, adds: bool) -> dict[str, Any]:
        """What the processor makes of a text with these images; `adds` says whether it begins with a token."""
        shown = {"images": [list(images)]} if images else {}
        specials = {} if adds else {"add_special_tokens": False}
        try:
            made = self._processor(text=[text], **shown, **specials, return_tensors="pt")
        except ODD as error:
            raise DataError(f"the processor fails on {_sizes(images)}: {one_line(error)}") from None
        return {name: value for name, value in made.items() if name not in OF_TEXT[2:]}

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the processor has its tokenizer begin a text with a token, where it begins with none."""
        return bool(self._merged()["text_kwargs"].get("add_special_tokens", True))

    def _merged(self) -> Mapping[str, dict[str, Any]]:
        """What the processor tells its tokenizer and its image processor, defaults of its class among them."""
        if self._settings is None:
            merge = getattr(self._processor, "_merge_kwargs", None)
            self._settings = {"text_kwargs": {}, "images_kwargs": {"return_tensors": "pt"}}
            if merge is not None:
                kinds = getattr(self._processor, "valid_processor_kwargs", ProcessingKwargs)
                known = getattr(self._tokenizer, "init_kwargs", {})
                self._settings |= merge(kinds, tokenizer_init_kwargs=known, return_tensors="pt")
        return self._settings

    def _expand(self, image: Image.Image, number: int) -> str | list[int]:
        """What the processor puts in the place of an image: its text, or only ids where it does not tell."""
        shown = {"text": [self.place * number], "images": [[image] * number], "add_special_tokens": False}
        try:
            try:
                made = self._processor(**shown, return_text_replacement_offsets=True)
            except (TypeError, ValueError):
                made = self._processor(**shown)
        except ODD as error:
            raise DataError(f"the image processor fails on {_sizes([image])}: {one_line(error)}") from None
        told = made.get("text_replacement_offsets")
        if told and len(told[0]) == number:
            return str(told[0][0]["replacement"])
        ids = [int(token) for token in made["input_ids"][0]]
        return ids[: len(ids) // number]


def _keep(kept: dict[_Key, _Value], key: _Key, value: _Value) -> _Value:
    """Put a value last among those kept, the first of which goes where there are too many."""
    if len(kept) >= MAX_SIZES:
        del kept[next(iter(kept))]
    kept[key] = value
    return value


def _sizes(images: Sequence[Image.Image]) -> str:
    """The sizes of images, of which one may be the odd one."""
    sides = sorted({f"{image.width}x{image.height}" for image in images})
    return f"an image of {sides[0]}" if len(sides) == 1 else f"images of {', '.join(sides[:_SHOWN_SIZES])}"
