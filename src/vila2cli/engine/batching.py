"""How the transformers engine cuts its requests into batches, and how large those may be."""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator

from vila2cli.engine import AnyRequest

MAX_OPEN_PIXELS = 1_000_000_000
"""Pixels of requests that are asked and not answered, 3 GB of decoded RGB: 83 images of 12 megapixels."""

BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Coarse on purpose: workers with a little more or less free memory settle on the same size."""


def num_pixels(request: AnyRequest) -> int:
    """Pixels of a request's images."""
    return sum(image.width * image.height for image in request.images)


class Window:
    """How far requests are read ahead of their answers: a number of requests, and the pixels they hold."""

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self._pixels: dict[int, int] = {}

    @property
    def has_room(self) -> bool:
        return len(self._pixels) < self._max_requests and sum(self._pixels.values()) < MAX_OPEN_PIXELS

    def open(self, serial: int, request: AnyRequest) -> None:
        self._pixels[serial] = num_pixels(request)

    def close(self, serial: int) -> None:
        del self._pixels[serial]


def chunks_by_group(
    requests: Iterable[AnyRequest], max_requests: int, max_pixels: int
) -> Iterator[list[AnyRequest]]:
    """Cut the stream where the group changes, and inside a group before it grows past either bound.

    A chunk is of one adapter and part, and the same whatever others are asked in between. The stream is
    asked again after the chunks of a group, even when it had run dry. What it then has for the group just
    given goes into chunks of that group, before the next group begins.
    """
    stream = iter(requests)
    held: deque[AnyRequest] = deque()  # read past the end of a group
    group: str | None = None
    while True:
        chunks: dict[tuple[str, str], list[AnyRequest]] = {}
        pixels: Counter[tuple[str, str]] = Counter()
        was_held = False
        while True:
            if held and held[0].group == group:
                request, was_held = held.popleft(), True
            elif (held and was_held) or (following := next(stream, None)) is None:
                break
            elif following.group != group:
                held.append(following)
                break
            else:
                request = following
            kind = request.adapter, request.part
            chunk, more = chunks.setdefault(kind, []), num_pixels(request)
            if chunk and (len(chunk) >= max_requests or pixels[kind] + more > max_pixels):
                yield chunk
                chunk = chunks[kind] = []
                pixels[kind] = 0
            chunk.append(request)
            pixels[kind] += more
        if chunks:
            yield from chunks.values()
        elif held:
            group = held[0].group
        else:
            return


def largest_batch(fits: Callable[[int], bool], limit: int) -> int:
    """The largest of BATCH_SIZES, or `limit` itself, for which `fits` holds; 0 when not even one does.

    `limit` is tried first, so that the usual case costs one try; then the sizes below it are halved.
    """
    if fits(limit):
        return limit
    sizes = [size for size in BATCH_SIZES if size < limit]
    num_fitting = bisect_left(sizes, True, key=lambda size: not fits(size))
    return sizes[num_fitting - 1] if num_fitting else 0
