"""An encoded image that stays where it lies while a training reads it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vila2cli.errors import DataError
from vila2cli.shards.fingerprints import Fingerprint, of_status
from vila2cli.shards.records import file_sha256


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An encoded image at a place in a file; `then` is what that was when it was tokenised."""

    path: str
    offset: int
    num_bytes: int
    then: Fingerprint | None = None

    @property
    def data(self) -> bytes:
        """Its bytes; raises DataError when the file is gone, or has changed since it was tokenised."""
        try:
            with Path(self.path).open("rb") as file:
                self._check(os.fstat(file.fileno()))
                found = read_at(file, self.offset, self.num_bytes)
        except OSError as error:
            raise DataError(
                f"cannot read {self.path}, which is trained on: {error.strerror or error}"
            ) from None
        if len(found) != self.num_bytes:
            raise DataError(f"{self.path} has changed while it is trained on: it is cut off")
        return found

    def _check(self, status: os.stat_result) -> None:
        """Raise DataError for another file; one whose time alone changed is read once to be known again."""
        if self.then is None or self.then.agrees(of_status(status)):
            return
        if status.st_size != self.then.num_bytes or file_sha256(Path(self.path)) != self.then.sha256:
            raise DataError(
                f"{self.path} has changed while it is trained on; put the old one back and start this again, "
                "or remove the unfinished output to train on the new one"
            )


def read_at(file: BinaryIO, offset: int, num_bytes: int) -> bytes:
    """Bytes at a place in a file, fewer where it ends."""
    file.seek(offset)
    return file.read(num_bytes)
