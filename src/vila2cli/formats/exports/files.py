"""Rows as JSON lines, with pictures as files beside them; and files that appear whole."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vila2cli.files import aside, naming, sync_folder
from vila2cli.formats.exports.rows import Content, picture_files, row_of, the_picture, write_pictures
from vila2cli.shards import Shard
from vila2cli.shards.sample import Sample


def put_in_place(partial: Path, path: Path) -> None:
    """Give a file that is whole its name."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


class WholeFile:
    """A text file that has its name once it is whole."""

    def __init__(self, path: Path) -> None:
        self.path, self._partial = path, aside(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self._partial.open("w", encoding="utf-8", errors="replace", newline="\n")

    def write(self, text: str) -> None:
        with naming(self.path):
            self._stream.write(text)

    def close(self) -> None:
        with naming(self.path):
            self._stream.close()
            put_in_place(self._partial, self.path)

    def abort(self) -> None:
        """Leave nothing behind; does nothing after `close`."""
        if not self._stream.closed:
            with suppress(OSError):  # where a disk is full, closing fails as writing did
                self._stream.close()
        self._partial.unlink(missing_ok=True)


def join_lines(parts: Sequence[Path], path: Path) -> None:
    """Write the lines of files as one file."""
    whole = WholeFile(path)
    try:
        for part in parts:
            with part.open(encoding="utf-8", newline="\n") as lines:
                for line in lines:
                    whole.write(line)
        whole.close()
    finally:
        whole.abort()


class JsonLines(WholeFile):
    """SHARD.jsonl: a row on each line; `image` names the file of its picture in the export."""

    def __init__(self, folder: Path, shard: Shard, content: Content) -> None:
        super().__init__(folder / f"{shard.name}.jsonl")
        self._folder, self._shard, self._content = folder, shard.name, content

    def add(self, sample: Sample) -> None:
        row: dict[str, Any] = row_of(sample, self._shard, self._content)
        if self._content.with_pictures:
            the_picture(sample)
            (row["image"],) = write_pictures(self._folder, picture_files(sample, self._shard))
        kept = self._content.captions  # null where a sample lacks one, for readers that go by the first row
        filled = {name: value for name, value in row.items() if value is not None or name in kept}
        self.write(json.dumps(filled, ensure_ascii=False) + "\n")
