"""Images that annotation files name: by path, file name or URL, in folders and in tars."""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from vila2cli.errors import DataError
from vila2cli.files import load_json, whole_characters
from vila2cli.formats.captions.items import PictureStore
from vila2cli.formats.folders import FileFolder
from vila2cli.formats.reading import RowError
from vila2cli.image import image_size
from vila2cli.shards.places import tar_stem
from vila2cli.shards.sample import EncodedImage
from vila2cli.shards.tarfiles import IMAGE_EXTENSIONS

_PACKED = (".zip", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".7z", ".rar")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the bytes of an image are: a file, or the `span` (start, length, time of change) of a plain tar.

    `name` is what it is called there."""

    path: Path
    extension: str
    span: tuple[int, int, int] | None = None
    name: str = ""

    def read(self) -> bytes:
        start, num_bytes, _ = self.span or (0, -1, 0)
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(num_bytes)

    def identity(self) -> list[str | int]:
        if self.span:
            return [self.path.name, *self.span]
        status = self.path.stat()
        return [self.path.name, status.st_size, status.st_mtime_ns]


def _file(path: Path, folder: Path) -> _Place:
    name = str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name
    return _Place(path, path.suffix[1:].lower(), name=name)


class ImageStore(PictureStore):
    """Finds images in folders and tars; tars, and files that img2dataset wrote, are also found by URL."""

    def __init__(self, places: Sequence[Path]) -> None:
        for place in places:
            if not place.exists():
                raise DataError(f"{place} does not exist; name the folder or tars that hold the images")
        self._folders = [place for place in places if place.is_dir()]
        tars = [place for place in places if not place.is_dir()]
        tars += [tar for folder in self._folders for tar in sorted(folder.glob("*.tar"))]
        self._members: dict[str, _Place] = {}
        self._by_name: dict[str, list[_Place]] = {}
        for tar in tars:
            self._index(tar)

    def find(self, name: str) -> EncodedImage:
        place = self._locate(name)
        data = place.read()
        try:
            image_size(data)
        except DataError as error:
            raise RowError(str(error), "undecodable", name) from None
        return EncodedImage(data, place.extension if place.extension in IMAGE_EXTENSIONS else "jpg")

    def identity(self, name: str) -> list[str | int]:
        try:
            return self._locate(name).identity()
        except RowError as error:
            return [error.reason]

    def file_name(self, name: str) -> str:
        return whole_characters(self._locate(name).name)

    def _locate(self, name: str) -> _Place:
        if (member := self._members.get(name)) is not None:
            return member
        for folder in self._folders:
            if _is_inside(path := folder / name, folder):
                return _file(path, folder)
        if "://" in name and (download := self._downloaded.get(name)) is not None:
            return _file(*download)
        return self._by_last_part(name)

    def _by_last_part(self, name: str) -> _Place:
        """The one image whose path ends as the name does: what holds the images may be laid out otherwise."""
        last = _last_part(name)
        places = list(self._by_name.get(last, []))
        places += [_file(path, folder) for folder in self._folders if _is_inside(path := folder / last, folder)]
        places = places or self._deeper(name)
        if len(places) > 1:
            raise RowError(f"several images are called {last}, none lies there", "ambiguous-image", name)
        if places:
            return places[0]
        packed = f"; {self._packed} has to be unpacked first" if self._packed else ""
        raise RowError(f"{name} is in none of the places given with --images{packed}", "missing-image")

    def _deeper(self, name: str) -> list[_Place]:
        """The files in folders of the folders whose paths end as the name does."""
        if "://" in name:  # the end of a URL tells little
            return []
        parts = PurePosixPath(name).parts
        return [
            _file(path, folder.root)
            for folder in self._listed
            for path in folder.named(parts[-1] if parts else "")
            if path.parts[-len(parts) :] == parts and _is_inside(path, folder.root)
        ]

    @cached_property
    def _packed(self) -> Path | None:
        """An archive in the folders that is not looked into."""
        files = (file for folder in self._folders for file in sorted(folder.iterdir()) if file.is_file())
        return next((file for file in files if file.name.lower().endswith(_PACKED)), None)

    @cached_property
    def _listed(self) -> list[FileFolder]:
        return [FileFolder(folder) for folder in self._folders]

    def _index(self, tar: Path) -> None:
        """Note where every file of a tar lies, by path, by name, and by the URL that its JSON states."""
        if not tar_stem(tar) or tar.suffix != ".tar":
            raise DataError(f"{tar} is no folder and no .tar; unpack compressed archives first")
        try:
            mtime_ns = tar.stat().st_mtime_ns
            with tarfile.open(tar, "r:") as archive:
                urls: dict[str, str] = {}
                for entry in archive:
                    if not entry.isfile():
                        continue
                    stem, _, extension = entry.name.rpartition(".")
                    if extension == "json" and (file := archive.extractfile(entry)) is not None:
                        urls[stem] = _url_in(file.read())
                    if extension.lower() in IMAGE_EXTENSIONS:
                        span = (entry.offset_data, entry.size, mtime_ns)
                        member = _Place(tar, extension.lower(), span, entry.name)
                        self._members.setdefault(entry.name, member)
                        self._by_name.setdefault(PurePosixPath(entry.name).name, []).append(member)
        except tarfile.TarError as error:
            raise DataError(f"{tar} is damaged or cut off: {error}") from None
        for stem, url in urls.items():
            own = next((m for e in IMAGE_EXTENSIONS if (m := self._members.get(f"{stem}.{e}"))), None)
            if url and own is not None and own.path == tar:
                self._members.setdefault(url, own)

    @cached_property
    def _downloaded(self) -> dict[str, tuple[Path, Path]]:
        """Images in folders, and those folders, by the URL in the JSON beside them."""
        by_url: dict[str, tuple[Path, Path]] = {}
        for folder in self._folders:
            for path in sorted(folder.rglob("*.json")):
                pictures = (path.with_suffix(f".{extension}") for extension in IMAGE_EXTENSIONS)
                picture = next((picture for picture in pictures if picture.is_file()), None)
                if picture is not None and (url := _url_in(path.read_bytes())):
                    by_url.setdefault(url, (picture, folder))
        return by_url


def _url_in(data: bytes) -> str:
    """The URL that the JSON beside a picture states; what else lies there is of no concern."""
    try:
        value = load_json(data)
    except ValueError:
        return ""
    return str(value.get("url") or "") if isinstance(value, dict) else ""


def _last_part(name: str) -> str:
    try:
        path = urlsplit(name).path if "://" in name else name
    except ValueError:  # such as http://[x
        path = name
    return PurePosixPath(path).name


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a file is there and in the folder; the name comes from an untrusted file."""
    try:
        return path.is_file() and path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):  # a name that is too long, or holds a zero byte
        return False
