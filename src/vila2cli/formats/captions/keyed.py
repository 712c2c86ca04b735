"""Captions by key from a table that some other tool wrote, found again in any order."""

import hashlib
import math
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from vila2cli.errors import DataError
from vila2cli.files import load_json, scratch_database, to_json_bytes
from vila2cli.formats.captions.columns import columns_of
from vila2cli.formats.captions.tables import plain
from vila2cli.formats.reading import Row, RowError, shown, stream_rows

KEYS = ("key", "__key__", "sample_key", "id", "url")
TEXTS = ("caption", "recaption", "text", "output", "new_caption", "txt")
"""Columns that are taken for the key and the caption where none is named."""
_BATCH = 256
"""Rows in memory, which may have pictures beside their captions."""


class CaptionTable:
    """The rows of a table by key, in a file so that memory does not grow with their number.

    `counts` says how many rows there are, and of those how many are `bad`, `double` or `empty`.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.counts: Counter[str] = Counter()
        database.execute(
            "CREATE TABLE caption (number INTEGER PRIMARY KEY, key TEXT, shard TEXT, text TEXT, about BLOB,"
            " file TEXT, taken TEXT, UNIQUE (key, shard))"
        )

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """A table whose file is there as long as the block runs; raises DataError when the disk is full."""
        with scratch_database(path, "give an --out on a disk with room") as database:
            yield cls(database)

    def add(self, path: Path, columns: tuple[str, str] | None, shards: Collection[str]) -> None:
        """Read a file; a `shard` column counts where it names one of `shards`, which tell keys apart.

        `columns` are those of `columns_for`.
        """
        for row in stream_rows(path, _BATCH):
            self.counts["rows"] += 1
            if columns and not isinstance(row, RowError):
                self._add(row, *columns, path.name, shards)
            else:
                self.counts["bad"] += 1

    def _add(self, row: Row, key: str, text: str, file: str, shards: Collection[str]) -> None:
        name, caption, shard = row.get(key), row.get(text), row.get("shard")
        if isinstance(name, bool) or not isinstance(name, str | int) or not isinstance(caption, str | None):
            self.counts["bad"] += 1
            return
        caption = (caption or "").strip()
        about = {part: row.get(f"{text}_{column}") for part, (column, _) in _PARTS.items()}
        about["model"] = about["model"] or row.get("model")
        about["fields"] = _object(about["fields"])
        typed = {part: _typed(value, _PARTS[part][1]) for part, value in about.items()}
        kept = {part: value for part, value in typed.items() if value is not None}
        added = self._database.execute(
            "INSERT OR IGNORE INTO caption VALUES (NULL, ?, ?, ?, ?, ?, NULL)",
            (str(name), shard if shard in shards else "", caption, to_json_bytes(kept), file),
        )
        self.counts["double"] += added.rowcount == 0
        self.counts["empty"] += added.rowcount == 1 and not caption

    def find(self, key: str, shard: str) -> tuple[Any, ...] | None:
        """Number, text, origin, file and the shard that took it before, of the row for a sample."""
        query = (
            "SELECT number, text, about, file, taken FROM caption WHERE key = ? AND shard IN (?, '')"
            " ORDER BY shard DESC LIMIT 1"
        )
        found: tuple[Any, ...] | None = self._database.execute(query, (key, shard)).fetchone()
        return found

    def take(self, number: int, shard: str) -> None:
        """Note that a sample of the shard has the row."""
        self._database.execute("UPDATE caption SET taken = ? WHERE number = ?", (shard, number))

    @property
    def num_keys(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM caption").fetchone()[0])


_PARTS: dict[str, tuple[str, Any]] = {
    "source": ("source", str),
    "model": ("model", str),
    "model_sha256": ("model_sha256", str),
    "prompt_id": ("prompt", str),
    "round": ("round", int),
    "logprob_mean": ("logprob", float),
    "fields": ("fields", dict),
}
"""What an annotation says of a caption: its column behind the name of the caption's, and its kind."""


def _typed(value: Any, kind: Any) -> Any:
    """A value as a caption's record has it, None for another kind; tables make floats of whole numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _object(value: Any) -> Any:
    """An object that Parquet holds as text, or as columns within one."""
    if not isinstance(value, str):
        return plain(value)
    try:
        return load_json(value.encode("utf-8", "surrogatepass"))
    except ValueError:
        return None


def columns_for(path: Path, key: str, text: str, layer: str) -> tuple[str, str] | None:
    """The columns of key and caption by these names, None of a file without rows that can be read.

    Where no column is named for the caption, one called like the `layer` comes first.
    Raises DataError where there are no columns of these names.
    """
    keys, texts = (key,) if key else KEYS, (text,) if text else (layer, *TEXTS)
    if not (known := columns_of(path, {keys[0], texts[0]}, None)):
        return None
    return _column(path, known, keys, "--key"), _column(path, known, texts, "--text")


def _column(path: Path, columns: Sequence[str], names: Sequence[str], option: str) -> str:
    if found := next((name for name in names if name in columns), None):
        return found
    what = f"no column {names[0]!r}" if len(names) == 1 else f"none of the columns {', '.join(names)}"
    raise DataError(f"{path.name} has {what}; it has {shown(columns)}: name one with {option}")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file; raises DataError for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
