"""Duplicates and near-duplicates among images: an index of those seen so far, on disk."""

import sqlite3
from dataclasses import dataclass

from vila2cli.filtering.image_hash import ImageHash


@dataclass(frozen=True, slots=True)
class Match:
    """The first image of an index that another one duplicates; `number` is what it was added under."""

    number: int
    is_exact: bool


class ImageIndex:
    """A table of images in an open SQLite database, so that memory does not grow with their number.

    With `max_distance` images match whose hashes differ in at most so many bits (and agree in colour), without
    it only those of equal bytes.
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
        """Add an image; numbers are used once, and a lower one is found first. The hash "" is like no other."""
        bands: tuple[int | None, ...] = (None,) * len(self._bands)
        if self._max_distance is not None and image_hash:
            bands = ImageHash.parse(image_hash).bands(self._max_distance)
        self._database.execute(self._insert, (number, sha256, image_hash, *bands))

    def find(self, sha256: bytes, image_hash: str) -> Match | None:
        """The image of equal bytes with the lowest number, else the near-duplicate with the lowest."""
        query = f"SELECT number FROM {self._name} WHERE sha256 = ? ORDER BY number LIMIT 1"
        if (exact := self._database.execute(query, (sha256,)).fetchone()) is not None:
            return Match(exact[0], is_exact=True)
        if self._max_distance is None or not image_hash:
            return None
        own = ImageHash.parse(image_hash)
        for number, text in self._database.execute(self._select_like, own.bands(self._max_distance)):
            if own.is_like(ImageHash.parse(text), self._max_distance):
                return Match(number, is_exact=False)
        return None
