"""The images of training samples, made ready by several threads."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Self

from PIL import Image

from vila2cli.image import decode_image
from vila2cli.model.chat import Chat
from vila2cli.model.ready import Preparer
from vila2cli.ranks import number
from vila2cli.run.feed import num_threads, threads_beside
from vila2cli.settings import Workers
from vila2cli.train.data import TrainSample


def threads_here(workers: Workers, num_processes: int) -> int:
    """How many threads make images ready in one of a training's processes; torchrun tells how many are here."""
    return num_threads(workers, number(os.environ, "LOCAL_WORLD_SIZE", num_processes))


class Showing:
    """Makes images ready in `num_workers` threads, with none in the caller's; use it as a context manager.

    There is no bound on memory: what is asked for is what the steps ahead take.
    """

    def __init__(self, chat: Chat, num_workers: int) -> None:
        self._chat, self._decode = chat, Preparer(chat, most_bytes=sys.maxsize)
        self._pool = threads_beside(num_workers, "vila2-pictures") if num_workers else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def images(self, samples: Sequence[TrainSample]) -> list[list[Image.Image]]:
        """The images of each sample; raises DataError for one that is not there any more."""
        made = map if self._pool is None else self._pool.map
        return list(made(self._of, samples))

    def _of(self, sample: TrainSample) -> list[Image.Image]:
        if not sample.most_tiles:
            return sample.decoded(self._decode)
        decode = partial(decode_image, made=self._chat.made)
        return [self._decode.of(image) for image in sample.decoded(decode)]
