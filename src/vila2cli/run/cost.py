"""What a pass over the data costs: seconds and images to device hours and dollars (VILA^2 section 3.6)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from vila2cli.settings import CostSettings

PAPER_DOLLARS, HUMAN_DOLLARS = 0.12, 36.0
"""Dollars per 1,000 images in VILA^2 section 3.6: one recaption pass on H100s, and human labelling."""
BESIDE_PAPER = f"VILA^2: ${PAPER_DOLLARS:.2f} a recaption pass, human captions ${HUMAN_DOLLARS:.0f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Throughput and price of generating for `num_images` in `seconds` on `num_devices`.

    `device` names the unit of hours ("core-hours", "GPU-hours" or "server-hours"). Dollars are what a
    server charged for tokens (`spent`), else those of the hours, and 0 when no price is set. Rates are 0
    when nothing was timed. Of the seconds the model `waited_for_pictures`, or pictures that were ready waited
    for it (`pictures_waited`).
    """

    num_images: int
    num_tokens: int
    seconds: float
    num_devices: int = 1
    device: str = "core-hours"
    dollars_per_hour: float = 0.0
    spent: float | None = None
    waited_for_pictures: float = 0.0
    pictures_waited: float = 0.0

    @property
    def images_per_s(self) -> float:
        return self.num_images / self.seconds if self.seconds > 0 else 0.0

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def hours(self) -> float:
        """Device hours: wall-clock hours times devices."""
        return self.seconds * self.num_devices / 3600

    @property
    def dollars(self) -> float:
        return self.hours * self.dollars_per_hour if self.spent is None else self.spent

    @property
    def hours_per_1k(self) -> float:
        return 1000 * self.hours / self.num_images if self.num_images else 0.0

    @property
    def dollars_per_1k(self) -> float:
        """Dollars per 1,000 images: the paper's 10.6 images/s on a 4.91 USD/h H100 make 0.129."""
        return 1000 * self.dollars / self.num_images if self.num_images else 0.0

    def to_json(self) -> dict[str, float | int | str]:
        """The numbers as summary.json holds them, rounded to six significant digits."""
        values = {
            "seconds": self.seconds,
            "images_per_s": self.images_per_s,
            "tokens_per_s": self.tokens_per_s,
            "hours": self.hours,
            "hours_per_1k_images": self.hours_per_1k,
            "dollars": self.dollars,
            "dollars_per_1k_images": self.dollars_per_1k,
            "waited_for_pictures": self.waited_for_pictures,
            "pictures_waited": self.pictures_waited,
        }
        rounded: dict[str, float | int | str] = {name: float(f"{value:.6g}") for name, value in values.items()}
        return {
            **rounded,
            "device": self.device,
            "num_devices": self.num_devices,
            "dollars_per_hour": self.dollars_per_hour,
            **({} if self.spent is None else {"spent": self.spent}),
        }

    def times(self, num_images: int) -> Self:
        """The cost of as many images at the same speed."""
        share = num_images / self.num_images if self.num_images else 0.0
        return replace(
            self,
            num_images=num_images,
            num_tokens=round(share * self.num_tokens),
            seconds=share * self.seconds,
            spent=None if self.spent is None else share * self.spent,
            waited_for_pictures=share * self.waited_for_pictures,
            pictures_waited=share * self.pictures_waited,
        )

    @property
    def is_like_paper(self) -> bool:
        """Whether its dollars are the rent of GPUs, as the paper's are, and not of cores or tokens."""
        return self.dollars > 0 and self.spent is None and self.device == "GPU-hours"

    def line(self) -> str:
        """One line for the terminal: speed, hours and dollars per 1,000 images, and the paper's if alike."""
        text = f"{three_digits(self.images_per_s)} images/s, {self.tokens_per_s:,.0f} tokens/s; "
        text += f"{three_digits(self.hours_per_1k)} {self.device}"
        if self.dollars:
            text += f" and ${three_digits(self.dollars_per_1k)}"
        return f"{text} per 1,000 images" + (f" ({BESIDE_PAPER})" if self.is_like_paper else "")


def cost_of(settings: CostSettings, figures: Mapping[str, float]) -> Cost:
    """The cost of a layer from the figures of its stats files.

    Layers of engines that do not say what they run on are counted in the recipe's unit.
    """
    seconds = figures.get("seconds", 0.0)
    on_gpu, on_server = figures.get("gpu_seconds"), figures.get("server_seconds")
    return Cost(
        num_images=int(figures.get("answered", 0)),
        num_tokens=int(figures.get("tokens", 0)),
        seconds=seconds,
        num_devices=max(1, math.ceil(figures["device_seconds"] / seconds - 0.5)) if seconds else 1,
        device="GPU-hours" if on_gpu else "server-hours" if on_server else settings.device,
        dollars_per_hour=0.0 if on_server else settings.dollars_per_hour,
        spent=figures.get("dollars", 0.0) if on_server else None,
        waited_for_pictures=figures.get("waited_for_pictures", 0.0),
        pictures_waited=figures.get("pictures_waited", 0.0),
    )


def waits_line(figures: Mapping[str, float]) -> str:
    """Who waited for whom, by the figures of stats files."""
    return (
        f"the model waited {three_digits(figures.get('waited_for_pictures', 0.0))} s for pictures, and "
        f"pictures that were ready {three_digits(figures.get('pictures_waited', 0.0))} s for the model"
    )


def fewer_tiles_lines(summary: Mapping[str, Any]) -> list[str]:
    """What a summary says for the terminal of requests that were shown in fewer tiles; nothing of none."""
    num = summary.get("fewer_tiles", 0)
    return [f"{num:,} requests showed pictures in fewer tiles, to fit the model's context"] if num else []


def counted(number: int, what: str) -> str:
    """So many of something: 1 sample, 1,200 samples."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def price_text(dollars: float) -> str:
    return f"${dollars:,.2f}" if dollars >= 0.01 else "less than $0.01"


def three_digits(value: float) -> str:
    """A figure for people with three digits that count: 0.0123, 12.3, 1,234."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
