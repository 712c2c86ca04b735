"""Pictures cut into tiles of the side that a tower takes, with the whole picture made small beside them.

`dynamic` is what Idefics3's and InternVL's image processors do themselves: a grid of tiles for which the
picture is stretched. `catty` keeps the picture's shape (POINTS section 3.1): it is scaled until its short
side fills the grid's, and tiles overlap along the other. transformers has no such class, and code in a
checkpoint is never run, so the rule is kept as plain data in the checkpoint's processor (`KEY`), where others
go by the class's own rule, and the stock image processor is put on a class of ours once it is loaded
(`cutting`).

Sizes are width and height in pixels, grids columns and rows.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from transformers.image_utils import SizeDict

from vila2cli.errors import DataError, ModelError
from vila2cli.files import read_json
from vila2cli.image import Size, inexact, is_inexact
from vila2cli.settings import TilesSettings

KEY = "vila2_tiles"
Grid = tuple[int, int]
Overlap = Literal["last", "even"]
_LONGEST = 4096
"""To this Idefics3's image processor scales what is longer, whatever its settings say."""


def catty_grid(size: Size, side: int, most: int) -> Grid:
    """The grid of at most so many tiles for a picture.

    Of those at least as wide for their height as a wide picture, or as tall as a tall one, it is the one of the
    nearest shape, and of several like that the one whose area is nearest to the picture's own. A picture longer
    than `most` times its breadth has the longest grid there is.
    """
    width, height = size
    shape = Fraction(width, height)
    grids = [(columns, rows) for columns in range(1, most + 1) for rows in range(1, most // columns + 1)]
    if width >= height:
        fitting = [grid for grid in grids if Fraction(*grid) >= shape] or [(most, 1)]
    else:
        fitting = [grid for grid in grids if Fraction(*grid) <= shape] or [(1, most)]

    def rank(grid: Grid) -> tuple[Fraction, int, int]:
        tiles = grid[0] * grid[1]
        return abs(Fraction(*grid) - shape), abs(tiles * side * side - width * height), tiles

    return min(fitting, key=rank)


def catty_size(size: Size, grid: Grid, side: int) -> Size:
    """The size to which a picture is scaled for its grid: both sides alike, to the nearest pixel.

    Only one that is longer than the longest grid is squeezed into that.
    """
    width, height = size
    across, down = grid[0] * side, grid[1] * side
    if width >= height:
        return min(across, _nearest(width * down, height)), down
    return across, min(down, _nearest(height * across, width))


def _nearest(dividend: int, divisor: int) -> int:
    return (2 * dividend + divisor) // (2 * divisor)


def starts(length: int, side: int, number: int, overlap: Overlap) -> list[int]:
    """Where tiles begin along an axis of a scaled picture, so that they cover it.

    They lie side by side and the last one reaches back over the one before it, or all overlap alike, as POINTS
    slides its window.
    """
    if number == 1:
        return [0]
    room = length - side
    if overlap == "even":
        return [i * room // (number - 1) for i in range(number)]
    return [min(i * side, room) for i in range(number)]


def split_edge(side: int, most: int) -> int:
    """The longest edge that Idefics3's class is told, so that it cuts at most so many tiles."""
    return side * max(1, min(math.isqrt(most), _LONGEST // side))


def tile_tokens(tiles: TilesSettings) -> tuple[str, ...]:
    """Idefics3's tokens for the places of tiles in all grids that a picture may get."""
    if tiles.method == "none":
        return ()
    places = [(row, column) for row in range(1, tiles.max + 1) for column in range(1, tiles.max // row + 1)]
    if tiles.method == "dynamic":
        most = math.isqrt(tiles.max)
        places = [(row, column) for row in range(1, most + 1) for column in range(1, most + 1)]
    return tuple(f"<row_{row}_col_{column}>" for row, column in places)


def splitting(tiles: TilesSettings, side: int) -> dict[str, Any]:
    """The settings of Idefics3's image processor for tiles of this side."""
    edge = side if tiles.method == "none" else split_edge(side, tiles.max)
    return {
        "size": {"longest_edge": edge},
        "max_image_size": {"longest_edge": side},
        "do_image_splitting": edge > side,
        **_noted(tiles),
    }


def cropping(tiles: TilesSettings) -> dict[str, Any]:
    """The settings of the image processor of InternVL for tiles."""
    is_cut = tiles.method != "none"
    return {
        "crop_to_patches": is_cut,
        "min_patches": 1,
        "max_patches": tiles.max if is_cut else 1,
        **_noted(tiles),
    }


def _noted(tiles: TilesSettings) -> dict[str, Any]:
    """What of the rule the stock classes do not know, as it stands in the checkpoint."""
    return {KEY: tiles.model_dump(mode="json")} if tiles.method == "catty" else {}


def cutting(processor: Any, name: str = "") -> Any:
    """A processor whose image processor cuts tiles as its checkpoint says; the same one where it says nothing.

    Raises ModelError, which tells the `name` of the checkpoint, for what is not as it is written there.
    """
    images = getattr(processor, "image_processor", None)
    told = getattr(images, KEY, None)
    if told is None:
        return processor
    kind = type(images)
    names = {base.__name__.removesuffix("Pil") for base in kind.__mro__}
    cutter = next((one for stock, one in _CUTTERS.items() if stock in names), None)
    if cutter is None:
        raise ModelError(f"{name}: {KEY} in its processor_config.json is not taken with a {kind.__name__}")
    try:
        tiles = TilesSettings.model_validate(told)
    except ValueError:
        tiles = TilesSettings()
    if tiles.method != "catty" or tiles.model_dump(mode="json") != told:
        raise ModelError(f"{name}: {KEY} in its processor_config.json is not as it is written: {told!r:.200}")
    if not issubclass(kind, Catty):
        images.__class__ = type(kind.__name__, (cutter, kind), {})
    return processor


class Catty:
    """The rule on a stock class; which of the class's settings are read is in the two kinds below."""

    vila2_tiles: Mapping[str, Any]

    @property
    def most_tiles(self) -> int:
        return int(self.vila2_tiles["max"])

    def grid(self, size: Size, side: int) -> Grid:
        return catty_grid(size, side, self.most_tiles)

    def resize(self, image: Any, size: SizeDict, **kwargs: Any) -> Any:
        """As the class does; what has the size already is left as it is."""
        if size.height and image.shape[-2:] == (size.height, size.width):
            return image
        return super().resize(image, size, **kwargs)  # type: ignore[misc]

    def cut(self, image: Any, side: int, resample: Any) -> tuple[list[Any], Grid]:
        """The tiles of an image of ... x C x H x W, row by row, and the image itself where it is shown, too."""
        height, width = image.shape[-2:]
        grid = self.grid((width, height), side)
        if grid == (1, 1):
            return [image], grid
        across, down = catty_size((width, height), grid, side)
        scaled = self.resize(image, SizeDict(height=down, width=across), resample=resample)
        overlap = self.vila2_tiles["overlap"]
        tops, lefts = starts(down, side, grid[1], overlap), starts(across, side, grid[0], overlap)
        tiles = [scaled[..., top : top + side, left : left + side] for top in tops for left in lefts]
        return [*tiles, *([image] if self.vila2_tiles["thumbnail"] else [])], grid


class _SplittingCatty(Catty):
    """The rule on Idefics3's image processor, which makes squares of what it is given."""

    def _preprocess(self, images: Sequence[Sequence[Any]], **kwargs: Any) -> Any:
        side = kwargs["max_image_size"]["longest_edge"]
        cuts = [[self.cut(image, side, kwargs["resample"]) for image in own] for own in images]
        shown = [[tile for tiles, _ in own for tile in tiles] for own in cuts]
        kwargs |= {"do_resize": False, "do_image_splitting": False}
        made = super()._preprocess(shown, **kwargs)  # type: ignore[misc]
        if kwargs.get("return_row_col_info"):
            for name, axis in (("rows", 1), ("cols", 0)):
                made[name] = [[0 if grid == (1, 1) else grid[axis] for _, grid in own] for own in cuts]
        return made

    def get_number_of_image_patches(
        self, height: int, width: int, images_kwargs: dict[str, Any] | None = None
    ) -> tuple[int, int, int]:
        size: Any = (images_kwargs or {}).get("max_image_size", self.max_image_size)  # type: ignore[attr-defined]
        columns, rows = self.grid((width, height), size["longest_edge"])
        if columns == rows == 1:
            return 0, 0, 0
        return columns * rows + bool(self.vila2_tiles["thumbnail"]), rows, columns


class _CroppingCatty(Catty):
    """The rule on the image processor of InternVL."""

    def crop_image_to_patches(
        self,
        images: Any,
        min_patches: int,
        max_patches: int,
        patch_size: Any,
        resample: Any = None,
        **kwargs: Any,
    ) -> Any:
        tiles, grid = self.cut(images, patch_size.height, resample)
        if grid == (1, 1) or self.vila2_tiles["thumbnail"]:
            tiles[-1] = self.resize(tiles[-1], patch_size, resample=resample)
        return torch.stack(tiles, dim=1)

    def get_number_of_image_patches(
        self, height: int, width: int, images_kwargs: dict[str, Any] | None = None
    ) -> int:
        size: Any = self.size  # type: ignore[attr-defined]
        columns, rows = self.grid((width, height), size["height"])
        return columns * rows + bool(columns * rows > 1 and self.vila2_tiles["thumbnail"])


_CUTTERS: Mapping[str, type[Catty]] = {
    "Idefics3ImageProcessor": _SplittingCatty,
    "GotOcr2ImageProcessor": _CroppingCatty,
}


def cuts_itself(processor: Any) -> bool:
    """Whether tiles are cut by our rule and not by that of the processor's class."""
    return isinstance(getattr(processor, "image_processor", None), Catty)


def limits(processor: Any, told: Mapping[str, Any]) -> tuple[int, ...]:
    """To how many tiles of a picture a processor may be held, the most first; none where its class cuts none.

    `told` are the settings that the processor gives its image processor.
    """
    images: Any = getattr(processor, "image_processor", None)
    if isinstance(images, Catty):
        return tuple(range(images.most_tiles - 1, 0, -1))
    if getattr(images, "do_image_splitting", False) and hasattr(images, "max_image_size"):
        edge = dict(images.size).get("longest_edge") or 0
        number = min(edge, _LONGEST) // images.max_image_size["longest_edge"]
        return tuple(edge * edge for edge in range(number - 1, 0, -1))
    is_cropping = told.get("crop_to_patches", getattr(images, "crop_to_patches", False))
    if is_cropping and hasattr(images, "max_patches"):
        return tuple(range(images.max_patches - 1, 0, -1))
    return ()


def held_to(processor: Any, most: int) -> Any:
    """The processor with at most so many tiles of a picture, one of its `limits`."""
    made = copy.copy(processor)
    made.image_processor = copy.copy(processor.image_processor)
    for name, value in settings_for(processor, most).items():
        setattr(made.image_processor, name, value)
    return made


def settings_for(processor: Any, most: int) -> dict[str, Any]:
    """The settings that hold an image processor to so many tiles, by name."""
    images = processor.image_processor
    if isinstance(images, Catty):
        return {KEY: {**images.vila2_tiles, "max": most}}
    if hasattr(images, "do_image_splitting"):
        side = images.max_image_size["longest_edge"]
        edge = split_edge(side, most)
        return {"size": {"longest_edge": edge}, "do_image_splitting": edge > side}
    return {"min_patches": min(images.min_patches, most), "max_patches": most}


def tokens_of(tiles: int, per_tile: int) -> int:
    """Tokens at most of a picture in so many tiles, with the marks around each of them."""
    return tiles * (per_tile + 3) + 3


def most_tokens(folder: Path) -> int:
    """Tokens at most of a picture that a checkpoint cuts into tiles, by its processor's file; 0 without."""
    try:
        told = read_json(folder / "processor_config.json")
        images = told["image_processor"]
        if rule := images.get(KEY):
            number = int(rule["max"])
        elif images.get("do_image_splitting"):
            number = (images["size"]["longest_edge"] // images["max_image_size"]["longest_edge"]) ** 2
        else:
            number = int(images["max_patches"]) if images.get("crop_to_patches") else 1
        per_tile = int(told.get("image_seq_len") or told.get("image_seq_length") or 0)
    except (DataError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        return 0
    return tokens_of(number + 1, per_tile) if number > 1 and per_tile else 0


def held(image: Image.Image, most: int) -> Image.Image:
    """The same pixels, to be shown in at most so many tiles."""
    image.load()
    made = Image.Image()._new(image.im)
    made.most_tiles = most  # type: ignore[attr-defined]
    return inexact(made) if is_inexact(image) else made


def most_tiles(image: Image.Image) -> int:
    """To how many tiles a picture is held, 0 for as many as the model has for it."""
    return int(getattr(image, "most_tiles", 0))
