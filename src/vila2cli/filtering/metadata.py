"""Whether a sample meets `filter.where`, and its value for `filter.top`, by metadata and picture header."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vila2cli.image import upright_header
from vila2cli.settings import FilterSettings
from vila2cli.settings.condition_values import Unknown
from vila2cli.settings.conditions import Expression, parse_condition, parse_number, reason_against
from vila2cli.shards.sample import EncodedImage, Sample


class SampleFacts:
    """What conditions ask of one sample; the header of its first picture is read when one asks for it."""

    __slots__ = ("_images", "_picture", "meta")

    def __init__(self, meta: Mapping[str, Any], images: Sequence[EncodedImage]) -> None:
        self.meta, self._images = meta, images
        self._picture: dict[str, float | str] = {}

    def of_picture(self, name: str) -> float | str:
        """Raises DataError for a header that cannot be read."""
        if not self._picture:
            if not self._images:
                raise Unknown(f"missing: {name}")
            width, height, form = upright_header(self._images[0].data)
            aspect = max(width, height) / max(1, min(width, height))
            self._picture = {"width": width, "height": height, "aspect": aspect, "format": form}
        return self._picture[name]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Why a sample is not kept, [] for no reason, and what it is ranked by, the highest first.

    `error` says what is wrong with one that cannot be looked at.
    """

    reasons: Sequence[str] = ()
    top: float | None = None
    error: str = ""


class Chooser:
    """The conditions and the ranking of a filter, read once; a function of one sample.

    Those on metadata come first. Only for what meets them the header of the picture is read.
    """

    def __init__(self, settings: FilterSettings) -> None:
        conditions = [parse_condition(text) for text in settings.where]
        self._of_metadata = [one for one in conditions if not one.reads_picture]
        self._of_picture = [one for one in conditions if one.reads_picture]
        self._top = parse_number(settings.top.field) if settings.top.field else None
        asked = [*conditions, *([self._top] if self._top is not None else [])]
        self.reads_picture = any(one.reads_picture for one in asked)

    def __call__(self, sample: Sample) -> Chosen:
        """Raises DataError where the header of its picture is asked for and cannot be read."""
        facts = SampleFacts(sample.meta, sample.images)
        reasons = _reasons(self._of_metadata, facts) or _reasons(self._of_picture, facts)
        if self._top is None or (reasons and self._top.reads_picture):
            return Chosen(reasons) if reasons else _KEPT
        try:
            return Chosen(reasons, float(self._top.value(facts)))
        except Unknown as unknown:
            return Chosen([*reasons, *([unknown.reason] if unknown.reason not in reasons else [])])
        except OverflowError:
            return Chosen([*reasons, f"no number: {self._top.text}"])


_KEPT = Chosen()


def _reasons(conditions: Sequence[Expression], facts: SampleFacts) -> list[str]:
    return [reason for one in conditions if (reason := reason_against(one, facts)) is not None]


def below_top(settings: FilterSettings) -> str:
    """What samples count under whose value is not among the highest."""
    return f"below top: {settings.top.field}"
