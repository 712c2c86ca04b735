"""What an importer makes of a benchmark's files: tasks with their questions, not yet in shards."""

import codecs
import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError

SHORT_PROMPT = "{question}\nAnswer the question using a single word or phrase."
CHOICE_PROMPT = "{question}\nAnswer with the option's letter from the given choices directly."
"""The prompts of LLaVA-1.5's evaluation, which VILA and VILA^2 use."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One sample: its id in the benchmark, the question, accepted answers, and what else its scorer needs.

    `images` are file names below the folder of images, or the bytes themselves.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    images: tuple[str | bytes, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One task: what its task.toml says, and its questions; `box_frame` where answers are boxes.

    `no_images` says why its images cannot be found, and what to do.
    """

    name: str
    answer_type: str
    scorer: str
    split: str
    questions: Iterable[Question]
    prompt: str = "{question}"
    version: str = "1"
    box_frame: str = ""
    no_images: str = ""


@dataclass(frozen=True, slots=True)
class Format:
    """A published file format: its name, the files it takes in words, and who reads them."""

    name: str
    files: str
    read: Callable[[Sequence[Path], str], Iterator[Table]]


def read_values(path: Path) -> list[Any]:
    """The JSON values of a file: one value, one per line, or one after the other.

    Raises DataError naming file and line for what is no JSON.
    """
    text = read_text(path)
    decoder, place, values = json.JSONDecoder(), 0, []
    end = len(text.rstrip())
    while place < end:
        place += len(text[place:]) - len(text[place:].lstrip()) if text[place].isspace() else 0
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, place) + 1
            raise DataError(f"{path}, line {line}: no JSON: {error}") from None
        values.append(value)
        while place < end and text[place].isspace():
            place += 1
    return values


def read_rows(path: Path, key: str | None = None) -> list[dict[str, Any]]:
    """The rows of a JSON file, a JSON-lines file or a Parquet file; of an object those under `key`."""
    if path.suffix == ".parquet":
        return _read_parquet(path)
    values = read_values(path)
    rows = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    if len(values) == 1 and isinstance(values[0], dict) and key is not None:
        rows = values[0].get(key) or []
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        where = f"a list of objects under {key!r}" if key else "a list of objects, or one on each line"
        raise DataError(f"{path} should hold {where}")
    return rows


def read_object(path: Path) -> dict[str, Any]:
    """The one JSON object of a file."""
    values = read_values(path)
    if len(values) != 1 or not isinstance(values[0], dict):
        raise DataError(f"{path} should hold one JSON object")
    return values[0]


def read_tsv(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table with tabs between and names in its first line; images in it are long."""
    csv.field_size_limit(min(sys.maxsize, 1 << 31))
    holds_rows = False
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                holds_rows = True
                yield row
    except UnicodeDecodeError as error:
        raise _no_utf8(path, error) from None
    except (OSError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if not holds_rows:
        raise DataError(
            f"{path} holds no rows: it should be a table with tabs between, and names in its first line"
        )


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DataError(f"{path} is a Parquet file: pip install pyarrow, or give it as JSON lines") from None
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (OSError, ValueError, ArrowException) as error:
        raise DataError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    if not rows:
        raise DataError(f"{path} holds no rows")
    return rows


def need(row: Any, key: str, path: Path) -> Any:
    """A value that a row must have; raises DataError naming file and row."""
    if not isinstance(row, Mapping):
        raise DataError(f"{path}: there should be an object, not {str(row)[:80]!r}")
    if key not in row or row[key] is None:
        shown = json.dumps({name: row[name] for name in list(row)[:3]}, default=str)[:120]
        raise DataError(f"{path}: a row has no {key!r}: {shown}")
    return row[key]


def need_rows(row: Any, key: str, path: Path) -> list[dict[str, Any]]:
    """The list of objects that a row must have under a key; raises DataError where it is another thing."""
    rows = need(row, key, path)
    if not isinstance(rows, list) or not all(isinstance(one, dict) for one in rows):
        raise DataError(f"{path}: {key!r} should be a list of objects, not {str(rows)[:80]!r}")
    return rows


def need_texts(row: Any, key: str, path: Path) -> list[str]:
    """The list of texts or numbers that a row must have under a key, as texts; raises DataError likewise."""
    values = need(row, key, path)
    if not isinstance(values, list) or not all(isinstance(one, str | int | float) for one in values):
        raise DataError(f"{path}: {key!r} should be a list of texts, not {str(values)[:80]!r}")
    return list(map(str, values))


def read_text(path: Path) -> str:
    """A file's text; raises DataError where it is not in UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _no_utf8(path, error) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from None


def _no_utf8(path: Path, error: UnicodeDecodeError) -> DataError:
    encoding = "utf-16" if error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "latin1"
    return DataError(
        f"cannot read {path}: it is not in UTF-8 ({error.reason} at byte {error.start}); convert it, for "
        f"instance with iconv -f {encoding} -t utf-8"
    )


def picture(value: Any) -> str | bytes | None:
    """An image given as a file name, or as Hugging Face's object of bytes and path; None for anything else."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    return value if isinstance(value, str | bytes) and value else None


def split_in_name(paths: Sequence[Path], known: Sequence[str]) -> str:
    """The split that a file is named after, "" where its name says none."""
    names = [part for path in paths for part in re.split("[^a-z0-9]+", path.stem.lower())]
    return next((name for name in names if name in known), "")


def one_file(paths: Sequence[Path], what: str) -> Path:
    """The one file of a format that has one."""
    if len(paths) != 1:
        raise DataError(f"give {what}, not {len(paths)} files")
    return paths[0]


def with_options(question: str, choices: Sequence[str], hint: str = "") -> str:
    """A question with its options below it, as "A. text", and what is known beforehand above it."""
    lines = [*([hint] if hint else []), question]
    return "\n".join(lines + [f"{LETTERS[i]}. {choice}" for i, choice in enumerate(choices)])


def stem_name(paths: Sequence[Path], default: str) -> str:
    """The name of a task after its file: letters, digits and hyphens."""
    stem = "".join(c if c.isalnum() else "-" for c in paths[0].stem.lower()).strip("-")
    return stem if stem.startswith(default) else f"{default}-{stem}"
