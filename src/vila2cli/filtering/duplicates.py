"""Images met before, exactly or by their look, in a SQLite table: memory does not grow with their number."""

import sqlite3
from dataclasses import dataclass
from typing import Literal

from vila2cli.filtering.image_hash import ImageHash

Likeness = Literal["exact", "perceptual"]


@dataclass(frozen=True, slots=True)
class Match:
    """The first image of the index that another one is like; `number` is what it was added under."""

    number: int
    likeness: Likeness


class ImageIndex:
    """A table of images in an open SQLite database.

    With `max_distance` images match that differ in at most so many signs of their hashes (and agree
    in colour), without it only those of equal bytes.
    """

    def __init__(self, database: sqlite3.Connection, name: str, max_distance: int | None) -> None:
        assert name.isidentifier(), "the name becomes part of a statement"
        self._database, self._name, self._max_distance = database, name, max_distance
        num_bands = 0 if max_distance is None else len(ImageHash(0, b"").bands(max_distance))
        self._bands = [f"band{index}" for index in range(num_bands)]
        columns = ["number INTEGER PRIMARY KEY", "sha256 BLOB", "hash TEXT", *self._bands]
        database.execute(f"CREATE TABLE {name} ({', '.join(columns)})")
        for column in ["sha256", *self._bands]:
            database.execute(f"CREATE INDEX {name}_{column} ON {name} ({column})")
        self._insert = f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})"
        like = " UNION ".join(f"SELECT number, hash FROM {name} WHERE {band} = ?" for band in self._bands)
        self._select_like = f"{like} ORDER BY number"

    def add(self, number: int, sha256: bytes, image_hash: str) -> None:
        """Add an image; numbers are used once, and a lower one is found first. "" is the look of none other."""
        bands: tuple[int | None, ...] = (None,) * len(self._bands)
        if self._max_distance is not None and image_hash:
            bands = ImageHash.parse(image_hash).bands(self._max_distance)
        self._database.execute(self._insert, (number, sha256, image_hash, *bands))

    def find(self, sha256: bytes, image_hash: str) -> Match | None:
        """The image of equal bytes with the lowest number, else the look-alike with the lowest."""
        query = f"SELECT number FROM {self._name} WHERE sha256 = ? ORDER BY number LIMIT 1"
        found = self._database.execute(query, (sha256,)).fetchone()
        if found is not None:
            return Match(found[0], "exact")
        if self._max_distance is None or not image_hash:
            return None
        mine = ImageHash.parse(image_hash)
        for number, text in self._database.execute(self._select_like, mine.bands(self._max_distance)):
            if mine.is_like(ImageHash.parse(text), self._max_distance):
                return Match(number, "perceptual")
        return None
