"""The settings of [base]: what a model is built of, and how it is shown pictures."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from vila2cli.settings.kinds import (
    Settings,
    setting,
)

NATIVE = ("qwen2_5_vl", "qwen3_vl")
"""Architectures that take a picture in its own shape and, within bounds, its own size."""


class PixelSettings(Settings):
    """Bounds of the pixels of a picture for a model of native resolution; Qwen2.5-VL's own by default."""

    min: Annotated[
        PositiveInt, setting("qwen2_5_vl, qwen3_vl: pictures of fewer pixels are scaled up to this")
    ] = 56 * 56
    max: Annotated[
        PositiveInt, setting("qwen2_5_vl, qwen3_vl: pictures of more pixels are scaled down to this")
    ] = 28 * 28 * 1280

    @model_validator(mode="after")
    def _is_a_range(self) -> "PixelSettings":
        if self.min > self.max:
            raise ValueError(f"min = {self.min} is above max = {self.max}")
        return self


class TilesSettings(Settings):
    """Pictures cut into tiles of the side that the tower takes, so that what is small in them can be read."""

    method: Annotated[
        Literal["none", "dynamic", "catty"],
        setting(
            "none: one square; dynamic: the grid of idefics3's or internvl's own image processor, which "
            "stretches; catty: tiles that overlap in place of stretching (POINTS section 3.1), cut by vila2"
        ),
    ] = "none"
    max: Annotated[
        PositiveInt,
        setting("most tiles of a picture, without the thumbnail; dynamic of idefics3: n x n", le=64),
    ] = 6
    thumbnail: Annotated[
        bool, setting("show the whole picture in a tile beside the others; false with catty and internvl alone")
    ] = True
    overlap: Annotated[
        Literal["last", "even"],
        setting("catty: the last row or column reaches back over the one before it, or all alike (POINTS)"),
    ] = "last"

    @model_validator(mode="before")
    @classmethod
    def _is_off(cls, tree: Any) -> Any:
        """Of tiles that are not cut, nothing else is said."""
        if not isinstance(tree, dict) or tree.get("method", "none") != "none":
            return tree
        if "method" not in tree and tree:
            raise ValueError('name the rule as well: method = "dynamic" or "catty"')
        return {}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.method == "dynamic" and not self.thumbnail:
            raise ValueError(
                'the stock classes always have a thumbnail; set thumbnail = true, or method = "catty"'
            )
        if self.method == "dynamic" and self.overlap != "last":
            raise ValueError('tiles overlap with method = "catty" alone; leave overlap out')
        return self


class BaseSettings(Settings):
    """What every round starts from."""

    architecture: Annotated[
        Literal["idefics3", "llava", "internvl", "qwen2_5_vl", "qwen3_vl"],
        setting("transformers model the parts are put into"),
    ] = "idefics3"
    vision_tower: Annotated[str, setting("folder or hub id of the vision tower, or world:tower")] = (
        "world:tower"
    )
    llm: Annotated[str, setting("folder or hub id of the language model, or world:llm")] = "world:llm"
    image_size: Annotated[NonNegativeInt, setting("image side in pixels, 0 for the tower's own")] = 0
    feature_layer: Annotated[
        int, setting("llava: tower layer whose output is projected, -1 for the last (VILA: -2)", lt=0)
    ] = -2
    pixels: Annotated[PixelSettings, setting("pictures of native resolution", if_set=True)] = PixelSettings()
    projector: Annotated[
        Literal["linear", "mlp"], setting("linear (idefics3, llava) or two layers (all but idefics3)")
    ] = "linear"
    dtype: Annotated[Literal["float32", "bfloat16"], setting("number format of training")] = "float32"
    tiles: Annotated[TilesSettings, setting("pictures in tiles", if_set=True)] = TilesSettings()

    @model_validator(mode="after")
    def _cuts_tiles(self) -> "BaseSettings":
        tiles = self.tiles
        if tiles.method == "none":
            return self
        if self.architecture not in ("idefics3", "internvl"):
            whole = "a picture in its own shape" if self.is_native else "one square of a picture"
            raise ValueError(
                f"{self.architecture} cannot be shown tiles: its class takes {whole}; set "
                'tiles.method = "none", or architecture = "idefics3" or "internvl"'
            )
        if self.architecture == "idefics3" and tiles.method == "dynamic" and tiles.max < 4:
            raise ValueError('idefics3 cuts 2 x 2 tiles or more; set tiles.max = 4, or tiles.method = "catty"')
        if self.architecture == "idefics3" and not tiles.thumbnail:
            raise ValueError("idefics3 always has a thumbnail; set tiles.thumbnail = true")
        return self

    @model_validator(mode="after")
    def _has_a_projector(self) -> "BaseSettings":
        own = {"idefics3": ("linear",), "llava": ("linear", "mlp")}.get(self.architecture, ("mlp",))
        if self.projector not in own:
            raise ValueError(
                f"{self.architecture} has no {self.projector} projector; set projector = {own[0]!r}"
            )
        return self

    @model_validator(mode="after")
    def _has_its_own_sizes(self) -> "BaseSettings":
        if self.is_native and self.image_size:
            raise ValueError(
                f"{self.architecture} takes pictures in their own shape; bound them with pixels, not image_size"
            )
        if not self.is_native and self.pixels != PixelSettings():
            raise ValueError(
                f"{self.architecture} has no native resolution; pixels are for {' and '.join(NATIVE)}"
            )
        return self

    @model_validator(mode="after")
    def _has_a_layer_to_project(self) -> "BaseSettings":
        default = BaseSettings.model_fields["feature_layer"].default
        if self.architecture != "llava" and self.feature_layer != default:
            raise ValueError(
                f"{self.architecture} projects the tower's last layer; feature_layer is for llava: leave it out"
            )
        return self

    @property
    def is_native(self) -> bool:
        """Whether a picture keeps its own shape and, within `pixels`, its own size."""
        return self.architecture in NATIVE
