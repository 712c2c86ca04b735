"""Captions by key from a table that some other tool wrote, found again in any order."""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from vila2cli.errors import DataError
from vila2cli.files import load_json, to_json_bytes
from vila2cli.formats.reading import Row, RowError, shown, stream_rows

KEYS = ("key", "__key__", "sample_key", "id", "url")
TEXTS = ("caption", "recaption", "text", "output", "new_caption", "txt")
"""Columns that are taken for the key and the caption where none is named."""
_BATCH = 256
"""Rows in memory, which may have pictures beside their captions."""


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption of the table: the row it stands in, its text, "" where it is empty, and who wrote it."""

    number: int
    text: str
    about: dict[str, Any]
    file: str


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
        path.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as database:
                for pragma in ("journal_mode = OFF", "synchronous = OFF"):
                    database.execute(f"PRAGMA {pragma}")
                database.execute("BEGIN")
                yield cls(database)
        except sqlite3.OperationalError as error:
            raise DataError(f"{path}: {error}; give an --out on a disk with room") from error
        finally:
            path.unlink(missing_ok=True)

    def add(self, path: Path, key: str, text: str, shards: Collection[str], layer: str) -> None:
        """Read a file; a `shard` column counts where it names one of `shards`, which tell keys apart.

        Where no column is named for the caption, one called like the `layer` comes first.
        Raises DataError where there are no columns of these names.
        """
        columns: tuple[str, str] | None = None
        for row in stream_rows(path, _BATCH):
            self.counts["rows"] += 1
            if isinstance(row, RowError):
                self.counts["bad"] += 1
                continue
            columns = columns or (
                _column(row, key, KEYS, "--key"),
                _column(row, text, (layer, *TEXTS), "--text"),
            )
            self._add(row, *columns, path.name, shards)

    def _add(self, row: Row, key: str, text: str, file: str, shards: Collection[str]) -> None:
        name, caption, shard = row.get(key), row.get(text), row.get("shard")
        if isinstance(name, bool) or not isinstance(name, str | int) or not isinstance(caption, str | None):
            self.counts["bad"] += 1
            return
        caption = (caption or "").strip()
        parts = {
            "model": f"{text}_model",
            "model_sha256": f"{text}_model_sha256",
            "prompt_id": f"{text}_prompt",
        }
        about = {part: row.get(column) for part, column in parts.items()}
        about["model"] = about["model"] or row.get("model")
        about |= {"round": row.get(f"{text}_round"), "logprob_mean": row.get(f"{text}_logprob")}
        about["fields"] = _object(row.get(f"{text}_fields"))
        kept = {part: value for part, value in about.items() if isinstance(value, _TYPES[part])}
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


_TYPES: dict[str, Any] = {
    "model": str,
    "model_sha256": str,
    "prompt_id": str,
    "round": int,
    "logprob_mean": float,
    "fields": dict,
}


def _object(value: Any) -> Any:
    """An object that Parquet holds as text."""
    if not isinstance(value, str):
        return value
    try:
        return load_json(value.encode("utf-8", "surrogatepass"))
    except ValueError:
        return None


def _column(row: Row, given: str, known: Sequence[str], option: str) -> str:
    name = given or next((name for name in known if name in row), "")
    if name in row:
        return name
    what = f"no column {given!r}" if given else f"none of the columns {', '.join(known)}"
    raise DataError(f"{row.where} has {what}; it has {shown(list(row.fields))}: name one with {option}")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file; raises DataError for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
