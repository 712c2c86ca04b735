"""The folder that an annotation's files are in: each at its place, or somewhere below under its name."""

from functools import cached_property
from pathlib import Path

from vila2cli.errors import DataError
from vila2cli.shards.sample import EncodedImage
from vila2cli.shards.tarfiles import IMAGE_EXTENSIONS


class FileFolder:
    """Files by the names that annotations give them; what lies below is listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, name: Path) -> Path:
        """The file at this place below the folder, or the only one so named; raises DataError without one."""
        try:
            path = self.root / name
            if not path.resolve().is_relative_to(self.root.resolve()):
                raise DataError(f"{name} is not below {self.root}")
            if path.is_file():
                return path
            paths = self.named(name.name)
        except (OSError, ValueError) as error:  # a name that no file can have, say
            raise DataError(f"cannot read {str(name)[:200]!r}: {error}") from None
        if len(paths) != 1:
            several = f"{paths[0]} and {paths[1]} are both named so" if paths else "there is none"
            raise DataError(f"there is no {name} below {self.root}: {several}")
        return paths[0]

    def named(self, name: str) -> list[Path]:
        """Every file of this name, whatever folder it is in."""
        return self.by_name.get(name, [])

    @cached_property
    def by_name(self) -> dict[str, list[Path]]:
        by_name: dict[str, list[Path]] = {}
        for path in sorted(self.root.rglob("*")):
            if path.is_file():
                by_name.setdefault(path.name, []).append(path)
        return by_name

    def identity(self, name: Path) -> list[str | int]:
        """What tells the file of a name from another without reading it, or that there is none."""
        try:
            path = self.find(name)
            status = path.stat()
        except (DataError, OSError):
            return [str(name)]
        return [str(name), path.name, status.st_size, status.st_mtime_ns]

    def image(self, name: Path) -> EncodedImage:
        """A picture's bytes as they are; raises DataError."""
        path = self.find(name)
        extension = path.suffix.removeprefix(".").lower()
        if extension not in IMAGE_EXTENSIONS:
            raise DataError(f"cannot read {str(name)!r}: its name does not end as a picture's does")
        try:
            return EncodedImage(path.read_bytes(), extension)
        except OSError as error:
            raise DataError(f"cannot read {str(name)!r}: {error.strerror}") from None
