"""What a pass over the data costs: seconds and images to device hours and dollars (VILA^2 section 3.6)."""

from dataclasses import dataclass, replace
from typing import Self

PAPER_DOLLARS, HUMAN_DOLLARS = 0.12, 36.0
"""Dollars per 1,000 images in VILA^2 section 3.6: one recaption pass on H100s, and human labelling."""
BESIDE_PAPER = f"VILA^2: ${PAPER_DOLLARS:.2f} a recaption pass, human captions ${HUMAN_DOLLARS:.0f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Throughput and price of generating for `num_images` in `seconds` on `num_devices`.

    `device` names the unit of hours ("core-hours" or "GPU-hours"). Dollars are 0 when no hourly
    price is set. Rates are 0 when nothing was timed.
    """

    num_images: int
    num_tokens: int
    seconds: float
    num_devices: int = 1
    device: str = "core-hours"
    dollars_per_hour: float = 0.0

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
        return self.hours * self.dollars_per_hour

    @property
    def hours_per_1k(self) -> float:
        return 1000 * self.hours / self.num_images if self.num_images else 0.0

    @property
    def dollars_per_1k(self) -> float:
        """Dollars per 1,000 images: the paper's 10.6 images/s on a 4.91 USD/h H100 make 0.129."""
        return self.hours_per_1k * self.dollars_per_hour

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
        }
        rounded: dict[str, float | int | str] = {name: float(f"{value:.6g}") for name, value in values.items()}
        return {
            **rounded,
            "device": self.device,
            "num_devices": self.num_devices,
            "dollars_per_hour": self.dollars_per_hour,
        }

    def times(self, num_images: int) -> Self:
        """The cost of as many images at the same speed."""
        share = num_images / self.num_images if self.num_images else 0.0
        return replace(
            self,
            num_images=num_images,
            num_tokens=round(share * self.num_tokens),
            seconds=share * self.seconds,
        )

    def line(self) -> str:
        """One line for the terminal: speed, and hours and dollars per 1,000 images beside the paper's."""
        text = f"{self.images_per_s:.3g} images/s, {self.tokens_per_s:,.0f} tokens/s; "
        text += f"{self.hours_per_1k:.3g} {self.device}"
        if self.dollars_per_hour:
            text += f" and ${self.dollars_per_1k:.3g}"
        return f"{text} per 1,000 images ({BESIDE_PAPER})"
