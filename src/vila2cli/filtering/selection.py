"""Which samples are kept: the rules of a filter over the scores of all shards, in a SQLite file.

Samples come in one order, that of shards and keys, whoever scored them; every rule follows it, so the
outcome does not depend on the split of the work. Memory does not grow with the number of samples.
The rules run one after another over what the ones before left, and a sample counts under the first
that dropped it.
"""

import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from vila2cli.files import scratch_database
from vila2cli.filtering.duplicates import ImageIndex
from vila2cli.shards.annotations import SampleId

OVERLAP, DUPLICATE, NEAR_DUPLICATE, NOT_DRAWN = "eval-overlap", "duplicate", "near-duplicate", "not-drawn"
_ROWS = 1000
_CACHE_KIB = 256 * 1024
_INSTRUCTIONS = 100_000
"""Steps of SQLite's machine between two looks at whether to stop: some milliseconds."""
OnRows = Callable[[int], None]
"""Called with the number of rows done since the last call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What the rules need to know of a sample.

    `reason` is that of a rule which needs no other sample, else None; `is_usable` says that it could be
    trained on. `rank` is lowest for the best; `tie` and `lot` are random numbers. `top` is highest for the
    best, None where no sample has one.
    """

    id: SampleId
    reason: str | None = None
    is_usable: bool = True
    image_sha256: str = ""
    image_hash: str = ""
    rank: float | None = None
    bucket: int = 0
    tie: int = 0
    lot: int = 0
    num_tokens: int = 0
    top: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a sample was dropped (None: it is kept), and which image it repeats, as SHARD/KEY."""

    id: SampleId
    reason: str | None
    like: str | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the share of one length bucket was cut: the highest rank kept, and how many of how many."""

    bucket: int
    num_kept: int
    num_ranked: int
    rank: float | None


class Selection:
    """The table of all candidates; `open` makes one in a file that is removed in the end."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.execute(
            "CREATE TABLE sample (number INTEGER PRIMARY KEY, shard TEXT, name TEXT, reason TEXT,"
            " usable INTEGER, sha256 BLOB, hash TEXT, rank REAL, bucket INTEGER, tie INTEGER, lot INTEGER,"
            " tokens INTEGER, top REAL, twin TEXT)"
        )

    @classmethod
    @contextmanager
    def open(cls, path: Path, check: Callable[[], None] = lambda: None) -> Iterator[Self]:
        """A selection whose table lies in the file `path` for as long as the block runs.

        `check` raises to stop the work, amid a long statement, too. Raises DataError when the disk is full.
        """
        room = "give an --out on a disk with room (SQLITE_TMPDIR says where it sorts)"
        with scratch_database(path, f"it holds what is compared, {room}") as database:
            try:
                database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
                database.set_progress_handler(check, _INSTRUCTIONS)
                yield cls(database)
            except sqlite3.OperationalError:
                check()  # a statement that was interrupted for it says only so
                raise

    def add(self, candidates: Iterable[Candidate]) -> None:
        """Add candidates in the order of shards and keys; a rank must be finite, NaN would be the best."""
        self._database.executemany(
            "INSERT INTO sample VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)", map(_row, candidates)
        )

    def drop_overlap(
        self,
        images: Iterable[tuple[str, str, str]],
        max_distance: int | None,
        on_rows: OnRows = lambda num: None,
    ) -> None:
        """Drop images that are among `images`: (name, SHA-256, hash) of each evaluation image.

        They cannot be trained on, so they are not drawn into a control either, and count under this
        reason whatever else is wrong with them.
        """
        index = ImageIndex(self._database, "held_out", max_distance)
        names = []
        for number, (name, sha256, image_hash) in enumerate(images):
            index.add(number, bytes.fromhex(sha256), image_hash)
            names.append(name)
        usable = "SELECT number, sha256, hash FROM sample WHERE number > ? AND usable ORDER BY number"
        for number, sha256, image_hash in self._rows(usable, on_rows):
            if (match := index.find(sha256, image_hash)) is not None:
                self._database.execute(
                    "UPDATE sample SET reason = ?, usable = 0, twin = ? WHERE number = ?",
                    (OVERLAP, names[match.number], number),
                )

    def drop_duplicates(self, max_distance: int | None, on_rows: OnRows = lambda num: None) -> None:
        """Of duplicates and near-duplicates keep the one of the lowest rank, the first of several.

        Every dropped image is like one that is kept and ranked no worse.
        """
        index = ImageIndex(self._database, "kept", max_distance)
        self._database.execute(
            "CREATE TABLE turn AS SELECT number FROM sample WHERE reason IS NULL ORDER BY rank, number"
        )
        in_turn = "FROM turn JOIN sample USING (number) WHERE turn.rowid"
        rows = f"SELECT turn.rowid, number, sha256, hash {in_turn} > ? ORDER BY turn.rowid"
        twin = f"SELECT shard || '/' || name {in_turn} = ?"
        for place, number, sha256, image_hash in self._rows(rows, on_rows):
            match = index.find(sha256, image_hash)
            if match is None:
                index.add(place, sha256, image_hash)
                continue
            reason = DUPLICATE if match.is_exact else NEAR_DUPLICATE
            self._database.execute(
                f"UPDATE sample SET reason = ?, twin = ({twin}) WHERE number = ?",
                (reason, match.number, number),
            )

    def keep_top(self, share: float, reason: str, *, per_shard: bool) -> None:
        """Keep the share with the highest `top`, of each shard or of all, rounded to whole samples.

        Of equals the first by key is kept, over all shards the first by shard and key.
        """
        group = "shard" if per_shard else "NULL"
        place = f"row_number() OVER (PARTITION BY {group} ORDER BY top DESC, shard, name)"
        self._database.execute(
            f"CREATE TABLE placed AS SELECT number, {place} AS place, count(*) OVER (PARTITION BY {group})"
            " AS num FROM sample WHERE reason IS NULL"
        )
        self._database.execute(
            "UPDATE sample SET reason = ? WHERE number IN"
            " (SELECT number FROM placed WHERE place > CAST(? * num + 0.5 AS INTEGER))",
            (reason, share),
        )

    def keep_lowest(self, share: float, reason: str) -> list[Cut]:
        """Keep the share with the lowest rank in each length bucket, rounded to whole samples."""
        buckets = "SELECT bucket, count(*) FROM sample WHERE reason IS NULL GROUP BY bucket ORDER BY bucket"
        return [
            self._cut(bucket, num, int(share * num + 0.5), reason)
            for bucket, num in self._database.execute(buckets).fetchall()
        ]

    def _cut(self, bucket: int, num: int, num_kept: int, reason: str) -> Cut:
        where = "reason IS NULL AND bucket = ?"
        unranked = f"SELECT EXISTS (SELECT 1 FROM sample WHERE {where} AND rank IS NULL)"
        assert self._database.execute(unranked, (bucket,)).fetchone() == (0,), "what has no rank cannot be cut"
        if num_kept == 0:
            self._database.execute(f"UPDATE sample SET reason = ? WHERE {where}", (reason, bucket))
            return Cut(bucket, 0, num, None)
        last = self._database.execute(
            f"SELECT rank, tie, number FROM sample WHERE {where} ORDER BY rank, tie, number LIMIT 1 OFFSET ?",
            (bucket, num_kept - 1),
        ).fetchone()
        self._database.execute(
            f"UPDATE sample SET reason = ? WHERE {where} AND (rank, tie, number) > (?, ?, ?)",
            (reason, bucket, *last),
        )
        return Cut(bucket, num_kept, num, last[0])

    def totals(self) -> dict[str | None, tuple[int, int]]:
        """Samples and caption tokens by reason; those kept under None."""
        query = "SELECT reason, count(*), sum(tokens) FROM sample GROUP BY reason ORDER BY reason"
        return {reason: (num, tokens) for reason, num, tokens in self._database.execute(query)}

    def draw_control(self) -> None:
        """Replace the outcome by a random one of the same size, out of everything that can be trained on."""
        num_kept = self._database.execute("SELECT count(*) FROM sample WHERE reason IS NULL").fetchone()[0]
        # The first lot that is not drawn; there is none when everything usable was kept.
        query = "SELECT lot, number FROM sample WHERE usable ORDER BY lot, number LIMIT 1 OFFSET ?"
        first = self._database.execute(query, (num_kept,)).fetchone()
        self._database.execute("UPDATE sample SET reason = NULL, twin = NULL WHERE usable")
        if first is not None:
            self._database.execute(
                "UPDATE sample SET reason = ? WHERE usable AND (lot, number) >= (?, ?)", (NOT_DRAWN, *first)
            )

    def decisions(self) -> Iterator[Decision]:
        """What became of every candidate, in their order."""
        query = "SELECT number, shard, name, reason, twin FROM sample WHERE number > ? ORDER BY number"
        for _, shard, key, reason, twin in self._rows(query):
            yield Decision((shard, key), reason, twin)

    def _rows(self, query: str, on_rows: OnRows = lambda num: None) -> Iterator[tuple[Any, ...]]:
        """The rows of a query in the order of its first column, above `?`; they may be changed meanwhile."""
        last = -1
        while rows := self._database.execute(f"{query} LIMIT {_ROWS}", (last,)).fetchall():
            yield from rows
            on_rows(len(rows))
            last = rows[-1][0]


def _row(candidate: Candidate) -> tuple[Any, ...]:
    rank, sha256 = candidate.rank, bytes.fromhex(candidate.image_sha256)
    assert rank is None or math.isfinite(rank), f"a rank is finite, not {rank}"
    what = candidate.reason, candidate.is_usable, sha256, candidate.image_hash
    order = rank, candidate.bucket, candidate.tie, candidate.lot
    return *candidate.id, *what, *order, candidate.num_tokens, candidate.top
