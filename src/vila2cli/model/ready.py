"""Pictures made ready for a model before it is asked about them, in threads beside its own.

What takes the time, decoding, scaling and normalising, is done outside the interpreter lock.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from vila2cli.errors import DataError
from vila2cli.files import DEFAULT_DRAFT
from vila2cli.image import decode_image
from vila2cli.model.tiles import most_tiles

if TYPE_CHECKING:
    from vila2cli.model.chat import Chat
    from vila2cli.model.pictures import Pictures

MOST_BYTES = 768 << 20
"""Memory for tensors of pictures that wait for their turn; pictures beyond it wait as pixels."""

Tensors = dict[str, Any]
Nested = Sequence[Sequence[Image.Image]]


class Room:
    """How much memory is left for tensors, whichever thread makes or leaves them."""

    def __init__(self, num_bytes: int) -> None:
        self._left, self._lock = num_bytes, threading.Lock()

    @property
    def is_left(self) -> bool:
        return self._left > 0

    def add(self, num_bytes: int) -> None:
        """Give back as many bytes, or take them where the number is negative."""
        with self._lock:
            self._left += num_bytes


class ReadyPicture(Image.Image):
    """A picture that has the model's tensors with it in place of pixels, which it decodes when asked for them.

    Pictures of one `digest` are the same.
    """

    def __init__(
        self,
        size: tuple[int, int],
        digest: str,
        tensors: Tensors,
        decode: Callable[[], Image.Image],
        room: Room,
    ) -> None:
        super().__init__()
        self._mode, self._size, self.digest = "RGB", size, digest
        self._decode, self._room = decode, room
        self.num_bytes = num_bytes(tensors)
        self.tensors: Tensors | None = tensors  # what the model takes of it alone, None after it was released
        self.most_tiles = 0
        room.add(-self.num_bytes)

    @property
    def is_decoded(self) -> bool:
        """Whether somebody asked for the pixels."""
        return self._im is not None

    def release(self) -> None:
        """Let go of the tensors, once the model has them."""
        tensors, self.tensors = self.tensors, None
        if tensors is not None:
            self._room.add(self.num_bytes)

    def load(self) -> Any:
        """Decode the pixels, which every method of an image that needs them does first."""
        if self._im is None:
            self.im = self._decode().im
        return super().load()

    def __del__(self) -> None:
        self.release()


class Preparer:
    """Makes encoded pictures ready for a model: `decode_image`, and the tensors as far as there is room.

    It is called in other threads than the model's. Where tensors of pictures made one by one are not those of
    a batch, they stay pixels.
    """

    def __init__(self, chat: "Chat", most_bytes: int = MOST_BYTES) -> None:
        self._chat, self._room = chat, Room(most_bytes)
        self.makes_tensors = can_join(chat)

    def __call__(self, data: bytes, *, max_pixels: int, draft: float = DEFAULT_DRAFT) -> Image.Image:
        """Decode a picture; raises DataError for one that cannot be decoded."""

        def decode() -> Image.Image:
            return decode_image(data, max_pixels=max_pixels, draft=draft, made=self._chat.made)

        image = decode()
        if not (self.makes_tensors and self._room.is_left):
            return image
        return self._ready(image, decode, hashlib.sha256(data).hexdigest())

    def of(self, image: Image.Image) -> Image.Image:
        """A picture that is decoded already."""
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        return self._ready(image, lambda: image, digest) if self.makes_tensors else image

    def _ready(self, image: Image.Image, decode: Callable[[], Image.Image], digest: str) -> Image.Image:
        try:
            tensors = self._chat.pixel_inputs([[image]])
        except DataError:  # for whoever asks about it
            return image
        ready = ReadyPicture(image.size, digest, tensors, decode, self._room)
        ready.most_tiles = most_tiles(image)
        return ready


def release(images: Iterable[Image.Image]) -> None:
    """Let go of the tensors of pictures that the model was given."""
    for image in images:
        if isinstance(image, ReadyPicture):
            image.release()


def join_ready(images: Nested, pictures: "Pictures | None" = None) -> Tensors | None:
    """The tensors of the images of each sample of a batch, None where none is ready, or they cannot be joined.

    Where only some are, `pictures` makes those of the others; without it there are none.
    """
    shown = [image for own in images for image in own]
    if not any(isinstance(image, ReadyPicture) for image in shown):
        return None
    made = [image.tensors if isinstance(image, ReadyPicture) else None for image in shown]
    if pictures is None:
        return join([one for one in made if one is not None], fills_up=False) if None not in made else None
    each = [pictures.tensors([[image]]) if one is None else one for image, one in zip(shown, made, strict=True)]
    return join(each, fills_up=pictures.fills_up)


def join(made: Sequence[Tensors], *, fills_up: bool) -> Tensors | None:
    """The tensors of a batch from those of its pictures, None where they are of different shapes.

    With `fills_up` zeros follow what is smaller, as of pictures cut into fewer tiles than others.
    """
    first = made[0]
    if any(one.keys() != first.keys() for one in made):
        return None
    joined: Tensors = {}
    for name, value in first.items():
        values = [one[name] for one in made]
        if len(made) == 1:
            joined[name] = value
        elif isinstance(value, torch.Tensor):
            if all(one.shape[1:] == value.shape[1:] for one in values):
                joined[name] = torch.cat(values)
            elif fills_up and all(one.ndim == value.ndim for one in values):
                joined[name] = _filled_up(values)
            else:
                return None
        elif isinstance(value, list):
            joined[name] = [part for one in values for part in one]
        else:
            return None
    return joined


def _filled_up(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors one after the other, each with zeros up to the largest of every dimension but the first."""
    sides = [max(each) for each in zip(*(one.shape[1:] for one in values), strict=True)]
    joined, at = values[0].new_zeros(sum(map(len, values)), *sides), 0
    for one in values:
        joined[(slice(at, at + len(one)), *map(slice, one.shape[1:]))] = one
        at += len(one)
    return joined


def can_join(chat: "Chat") -> bool:
    """Whether a batch's tensors are those of its pictures one after the other, wherever shapes are the same.

    It settles whether they are filled up where shapes differ.
    """
    from vila2cli.model.reference import TALL, WIDE, trial_picture

    if not chat.takes_images:
        return False
    chat.check()
    # Else its tokenizer, which one thread may use at a time, is asked as well.
    if chat.whole or not chat.pictures.alone:
        return False
    wide, tall, square = map(trial_picture, (WIDE, TALL, (256, 256)))
    batches = [[[wide], [tall]], [[tall], [square], [tall]]]
    if chat.most_images is None:
        batches.append([[wide, wide], [wide]])
    try:
        made = {id(image): chat.pixel_inputs([[image]]) for image in (wide, tall, square)}
        theirs = [chat.pixel_inputs(batch) for batch in batches]
    except DataError:
        return False
    for chat.pictures.fills_up in (True, False):
        ours = [
            join([made[id(image)] for own in batch for image in own], fills_up=chat.pictures.fills_up)
            for batch in batches
        ]
        if all(one is None or same(one, their) for one, their in zip(ours, theirs, strict=True)):
            return True
    return False


def same(ours: Any, theirs: Any) -> bool:
    """Whether two sets of tensors are equal in names, types, shapes and every bit."""
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        return ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return ours.keys() == theirs.keys() and all(same(ours[name], theirs[name]) for name in ours)
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return type(ours) is type(theirs) and bool(ours == theirs)


def num_bytes(tensors: Tensors) -> int:
    """The memory that tensors, or lists of them, take."""
    parts = [part for value in tensors.values() for part in (value if isinstance(value, list) else [value])]
    return sum(part.nbytes for part in parts if isinstance(part, torch.Tensor))
