"""Which annotation formats there are, and which specialist's data each can give."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from vila2cli.errors import DataError, RecipeError
from vila2cli.formats.specialists import grounding, ocr, spatial
from vila2cli.formats.specialists.coco_readers import read_coco, read_refcoco
from vila2cli.formats.specialists.pictures import BuildSettings, Conversation, Picture, Thing
from vila2cli.formats.specialists.readers import (
    read_grit,
    read_lines_of_boxes,
    read_nlvr,
    read_visual_genome,
)
from vila2cli.formats.specialists.text_readers import read_docvqa, read_textocr

Converse = Callable[[Picture, Sequence[Thing], BuildSettings], Conversation]
SPECIALISTS: Mapping[str, Converse] = MappingProxyType(
    {"spatial": spatial.converse, "grounding": grounding.converse, "ocr": ocr.converse}
)


@dataclass(frozen=True, slots=True)
class Format:
    """How annotations are read, and for which specialists; `in_shards` when they lie beside their pictures."""

    read: Callable[[Sequence[Path]], Iterator[Picture]]
    specialists: tuple[str, ...]
    in_shards: bool = False


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "coco": Format(read_coco, ("spatial", "grounding")),
        "refcoco": Format(read_refcoco, ("spatial", "grounding")),
        "visual-genome": Format(read_visual_genome, ("spatial", "grounding")),
        "grit": Format(lambda paths: read_grit([str(path) for path in paths]), ("grounding",), in_shards=True),
        "nlvr": Format(read_nlvr, ("spatial", "grounding")),
        "textocr": Format(read_textocr, ("ocr",)),
        "docvqa": Format(read_docvqa, ("ocr",)),
        "lines": Format(read_lines_of_boxes, ("spatial", "grounding", "ocr")),
    }
)


def read_pictures(format: str, specialist: str, annotations: Sequence[Path]) -> Iterator[Picture]:
    """The pictures that annotation files speak of.

    Raises RecipeError for a format that is unknown or has no data for the specialist, DataError for files
    that are not of the format.
    """
    if format not in FORMATS:
        raise RecipeError(f"--format {format}: known are {', '.join(FORMATS)}")
    if specialist not in FORMATS[format].specialists:
        able = ", ".join(name for name, one in FORMATS.items() if specialist in one.specialists)
        raise RecipeError(f"--format {format} has no data for the {specialist} specialist; these have: {able}")
    return _checked(format, annotations)


def _checked(format: str, annotations: Sequence[Path]) -> Iterator[Picture]:
    try:
        yield from FORMATS[format].read(annotations)
    except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError) as error:
        where = ", ".join(map(str, annotations))
        raise DataError(f"{where}: not as {format} writes it ({type(error).__name__}: {error})") from error
