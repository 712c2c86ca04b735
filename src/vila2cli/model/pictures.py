"""Images to what a model takes of them: the ids that they stand as, and tensors, as its processor has it."""

import copy
from array import array
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar

from PIL import Image
from transformers.processing_utils import ProcessingKwargs

from vila2cli.errors import DataError, one_line
from vila2cli.image import Size
from vila2cli.model.backends import quick
from vila2cli.model.outlines import Outlines
from vila2cli.model.ready import Nested as Nested
from vila2cli.model.ready import join, same
from vila2cli.model.rendering import ODD
from vila2cli.model.tiles import held, held_to, limits, most_tiles

MAX_SIZES = 1024
_SHOWN_SIZES = 8
_LEVELS = ("do_rescale", "do_normalize")
OF_TEXT = ("input_ids", "attention_mask", "labels", "text_replacement_offsets", "offset_mapping")
_ALONE = {"padding": False}
"""For one text; else some processors want a padding token, which not every tokenizer has."""
_Value = TypeVar("_Value")
_Place = TypeVar("_Place", bound=Hashable)
_Key = tuple[int, int, int]
"""Width and height of an image, and the number of images that it is one of, where that matters."""


class Pictures:
    """A processor's image side; `place` is what a chat template writes where an image stands, "" for none.

    `by_number` says whether an image stands as another text beside others than when it is the only one.
    `alone` says whether images may be handed to the image processor by itself, with the settings that the
    processor gives it, or whether the processor has to be called as a whole. `names` are those of the tensors
    that the model takes, all of them while that is not known. `fills_up` as in `model.ready.join`.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = self._maker = processor  # the second makes tensors
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self.place = _place(processor, self._tokenizer)
        self.place_id = int(self._tokenizer.convert_tokens_to_ids(self.place)) if self.place else -1
        self.by_number = False
        self.alone = True
        self.names: frozenset[str] | None = None
        self.fills_up = False
        self._settings: dict[str, dict[str, Any]] | None = None
        self._ids: dict[_Key, array[int]] = {}  # the most recently used is last
        self._texts: dict[_Key, str] = {}
        self._ids_of_texts: dict[str, array[int]] = {}
        self._outlines: Outlines | None = None
        self._plans = False  # whether tensors of one image are made by the plan of its size
        self._most = 0  # what the pictures shown here are held to
        self._held: dict[int, Pictures] = {}
        self._shown: Sequence[Image.Image] = ()
        self._holding = Lock()

    @property
    def feature_id(self) -> int:
        """The id of the tokens that features of images take the place of, -1 for a model without images."""
        own = getattr(self._tokenizer, "image_token_id", None)
        if own is None and self.place != getattr(self._processor, "image_token", None):
            own = getattr(self._processor, "image_token_id", None)
        return self.place_id if own is None or not self.place else int(own)

    @cached_property
    def limits(self) -> tuple[int, ...]:
        """The numbers of tiles that a picture may be held to, the most first."""
        return limits(self._processor, self._merged()["images_kwargs"]) if self.place else ()

    @property
    def tokens_per_tile(self) -> int:
        """The tokens that a tile's features take the place of, 0 where a picture is not cut into tiles."""
        names = ("image_seq_len", "image_seq_length")
        found = (getattr(self._processor, name, None) for name in names if self.limits)
        return next((int(number) for number in found if number), 0)

    def num_tiles(self, ids: Sequence[int]) -> int:
        """The tiles of all pictures among a prompt's ids, for a model that cuts them."""
        return ids.count(self.feature_id) // self.tokens_per_tile

    def hasten(self, shown: Sequence[Image.Image]) -> None:
        """Take quicker ways to ids and tensors where these images come out the same, to the bit.

        Ids are then made of sizes alone, and tensors without copies between the image processor's steps.
        """
        self._shown = shown
        self._maker, self._outlines, self._plans = self._processor, None, False
        own = [(image, *found) for image in shown if (found := self._own(image)) is not None]
        if not own:
            return
        outlines = Outlines.of(self._processor, self._merged()["images_kwargs"])
        if outlines is not None and all(
            told == [outlines.text(image.size, number) for number in self._numbers] for image, told, _ in own
        ):
            self._outlines = outlines
        if (images := quick(self._processor.image_processor)) is not None:
            maker = copy.copy(self._processor)
            maker.image_processor = images
            if all(same(self._made([[image]], maker) or {}, tensors) for image, _, tensors in own):
                self._maker = maker
        self._plans = (
            self._outlines is not None
            and self.alone
            and all(same(self._planned(image) or tensors, tensors) for image, _, tensors in own)
        )

    def _for(self, image: Image.Image) -> "Pictures":
        """The pictures of a processor that is held to as many tiles as this image."""
        return self._of(most_tiles(image))

    def processor_for(self, most: int) -> Any:
        """The processor held to so many tiles, 0 for as many as there are for a picture."""
        return self._of(most)._processor

    def _of(self, most: int) -> "Pictures":
        if most in (0, self._most):
            return self
        with self._holding:
            if most not in self._held:
                made = Pictures(held_to(self._processor, most))
                made._most, made.by_number, made.alone = most, self.by_number, self.alone
                made.names, made.fills_up = self.names, self.fills_up
                if self._settings is not None:
                    ours, theirs = self._settings["images_kwargs"], made._merged()["images_kwargs"]
                    theirs.update({name: value for name, value in ours.items() if name in _LEVELS})
                made.hasten(self._shown)
                self._held[most] = made
            return self._held[most]

    def in_fewer_tiles(self, images: Sequence[Image.Image], excess: int) -> list[Image.Image] | None:
        """The images of a request held to so few tiles, all alike, that they take `excess` tokens less.

        None where they cannot be.
        """
        number = len(images)
        tokens = sum(len(self.ids(image, number)) for image in images)
        for most in self.limits if images else ():
            if most >= (most_tiles(images[0]) or most + 1):
                continue
            shown = [held(image, most) for image in images]
            if tokens - sum(len(self.ids(image, number)) for image in shown) >= excess:
                return shown
        return None

    def keep_levels(self, shown: Sequence[Image.Image]) -> None:
        """Make tensors of levels as they are, for an engine that rescales and normalises them."""
        self._merged()["images_kwargs"].update(dict.fromkeys(_LEVELS, False))
        self.hasten(shown)

    @property
    def _numbers(self) -> tuple[int, ...]:
        """Numbers of images in which each may stand as another text."""
        return (1, 2) if self.by_number else (1,)

    def _own(self, image: Image.Image) -> tuple[list[str | list[int]], dict[str, Any]] | None:
        """What the processor puts in the place of an image, and its tensors; None where it fails."""
        try:
            told = [self._expand(image, number) for number in self._numbers]
            return told, self._made([[image]], self._processor) or {}
        except DataError:
            return None

    def made(self, size: Size) -> Size | None:
        """The width and height to which an image of this size is scaled at most, None where that is open."""
        return None if self._outlines is None else self._outlines.made(size)

    def ids(self, image: Image.Image, number: int) -> "array[int]":
        """The ids that an image of this size, one of a number of images, stands as; the last ones are kept."""
        if (own := self._for(image)) is not self:
            return own.ids(image, number)
        key = self._key(image, number)
        known = self._ids.pop(key, None)
        if known is None:
            found = self._told(image, key[2])
            known = self._ids_of(found) if isinstance(found, str) else array("i", found)
        return _keep(self._ids, key, known)

    def text(self, image: Image.Image, number: int) -> str | None:
        """The text that an image of this size stands as, None where the processor does not tell."""
        if (own := self._for(image)) is not self:
            return own.text(image, number)
        key = self._key(image, number)
        known = self._texts.pop(key, None)
        if known is None:
            found = self._told(image, key[2])
            if not isinstance(found, str):
                return None
            known = found
        return _keep(self._texts, key, known)

    def _told(self, image: Image.Image, number: int) -> str | list[int]:
        text = None if self._outlines is None else self._outlines.text(image.size, number)
        return self._expand(image, number) if text is None else text

    def _ids_of(self, text: str) -> "array[int]":
        known = self._ids_of_texts.pop(text, None)
        if known is None:
            known = array("i", self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return _keep(self._ids_of_texts, text, known)

    def _key(self, image: Image.Image, number: int) -> _Key:
        return (*image.size, number if self.by_number else 1)

    def tensors(self, images: Nested) -> dict[str, Any]:
        """The model's image tensors for the images of each sample of a batch, {} for none.

        Where images are cut into tiles, one image makes a row of `pixel_values`.
        """
        if not any(images):
            return {}
        rows = [list(own) for own in images if own]
        if any(self._for(image) is not self for own in rows for image in own):
            each = [self._for(image).tensors([[image]]) for own in rows for image in own]
            return join(each, fills_up=True) or {}
        if hasattr(self._processor.image_processor, "do_image_splitting"):
            rows = [[image] for own in rows for image in own]
        made = self._planned(rows[0][0]) if self._plans and len(rows) == len(rows[0]) == 1 else None
        return made or self._made(rows, self._maker) or self._made(rows, self._processor) or {}

    def _named(self, made: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the image processor's tensors that the model takes."""
        unused = ("num_patches", *getattr(self._processor, "unused_input_names", ())) if self.alone else ()
        return {
            name: value
            for name, value in made.items()
            if name not in unused and (self.names is None or name in self.names)
        }

    def _made(self, rows: list[list[Image.Image]], maker: Any) -> dict[str, Any] | None:
        """The tensors that a processor makes, None where it fails and another one is left; raises DataError."""
        try:
            if self.alone:
                return self._named(maker.image_processor(images=rows, **self._merged()["images_kwargs"]))
            texts = [self.place * len(own) for own in rows]
            made = maker(text=texts, images=rows, padding=True, return_tensors="pt")
            return self._named({name: value for name, value in made.items() if name not in OF_TEXT})
        except ODD as error:
            if maker is not self._processor:
                return None
            shown = [image for own in rows for image in own]
            raise DataError(f"the image processor fails on {_sizes(shown)}: {one_line(error)}") from None

    def _planned(self, image: Image.Image) -> dict[str, Any] | None:
        """The tensors of one image by the plan of its size, None where there is none."""
        try:
            made = None if self._outlines is None else self._outlines.tensors(image)
        except ODD:
            return None
        return None if made is None else self._named(made)

    def laid_out(self, text: str, images: Sequence[Image.Image], *, adds: bool) -> dict[str, Any]:
        """What the processor makes of a text with these images; `adds` says whether it begins with a token."""
        shown = {"images": [list(images)]} if images else {}
        specials = {} if adds else {"add_special_tokens": False}
        try:
            made = self._processor(text=[text], **shown, **specials, **_ALONE, return_tensors="pt")
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
        shown = {
            "text": [self.place * number],
            "images": [[image] * number],
            "add_special_tokens": False,
            "return_tensors": "pt",  # on lists of numbers some processors fail
        } | _ALONE
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


def _place(processor: Any, tokenizer: Any) -> str:
    """What a chat template writes where an image stands; for some it is another token than that of features."""
    token = getattr(processor, "image_placeholder_token", None)
    if token is None or tokenizer.convert_ids_to_tokens(tokenizer.convert_tokens_to_ids(token)) != token:
        token = getattr(processor, "image_token", None)
    return str(token or "")


def _keep(kept: dict[_Place, _Value], key: _Place, value: _Value) -> _Value:
    """Put a value last among those kept, the first of which goes where there are too many."""
    if len(kept) >= MAX_SIZES:
        del kept[next(iter(kept))]
    kept[key] = value
    return value


def _sizes(images: Sequence[Image.Image]) -> str:
    """The sizes of images, of which one may be the odd one."""
    sides = sorted({f"{image.width}x{image.height}" for image in images})
    return f"an image of {sides[0]}" if len(sides) == 1 else f"images of {', '.join(sides[:_SHOWN_SIZES])}"
