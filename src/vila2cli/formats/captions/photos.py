"""Pictures in a folder, with captions from tables, from text files beside them, or with none."""

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from warnings import warn

from vila2cli.errors import DataError, DataWarning
from vila2cli.files import aside, load_json, naming, to_json_bytes, whole_characters
from vila2cli.formats.captions.columns import columns_of, metadata, picture_column, text_column
from vila2cli.formats.captions.items import Item, PictureStore
from vila2cli.formats.captions.keys import plain_path
from vila2cli.formats.captions.tables import captions_in
from vila2cli.formats.reading import RowError, shown, stream_rows
from vila2cli.image import image_size
from vila2cli.shards.sample import EncodedImage
from vila2cli.shards.tarfiles import IMAGE_EXTENSIONS, UNREAD_IMAGE_EXTENSIONS

_NOT_LOOKED_INTO = ("__MACOSX", "@eaDir")
MAX_NAMED = 5
"""Pictures or rows named in a warning."""
_PICTURES = IMAGE_EXTENSIONS | UNREAD_IMAGE_EXTENSIONS


def find_pictures(places: Sequence[Path]) -> dict[Path, str]:
    """Every file that is called like a picture, given or below a folder given, and its path below that.

    Hidden files are left out. Raises DataError for a place that is not there, and where no picture is.
    """
    found: dict[Path, str] = {}
    for place in places:
        if place.is_dir():
            found |= {path: str(path.relative_to(place)) for path in _walk(place) if path not in found}
        elif place.is_file():
            if _extension(place) not in _PICTURES:
                raise DataError(
                    f"{place} is no folder, and by its name no picture; a table goes with --captions"
                )
            found.setdefault(place, place.name)
        else:
            raise DataError(f"{place} is no folder and no file")
    if not found:
        names = ", ".join(sorted(IMAGE_EXTENSIONS))
        raise DataError(f"{', '.join(map(str, places))} holds no picture, whose name ends in {names}")
    return found


def _walk(root: Path) -> Iterator[Path]:
    """The pictures below a folder in order of their paths; a link to a folder is followed, but in no circle."""
    seen = set[tuple[int, int]]()
    for folder, below, names in os.walk(root, followlinks=True, onerror=_warn_of):
        status = Path(folder).stat()
        if (place := (status.st_dev, status.st_ino)) in seen:
            below.clear()
            continue
        seen.add(place)
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in _NOT_LOOKED_INTO)
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and _extension(path) in _PICTURES:
                yield path


def _warn_of(error: OSError) -> None:
    """Tell of a folder that cannot be looked into, such as the lost+found of a disk."""
    text = f"{error.filename} cannot be read ({error.strerror}): the pictures in it are left out"
    warn(text, DataWarning, stacklevel=2)


def _extension(path: Path) -> str:
    return path.suffix[1:].lower()


class PictureFiles(PictureStore):
    """The pictures that `find_pictures` gives, by their paths."""

    def __init__(self, names: Mapping[Path, str]) -> None:
        self._names = names

    def find(self, name: str) -> EncodedImage:
        path = Path(name)
        try:
            is_pipe = path.exists() and not path.is_file()  # which would be waited for
            data = b"" if is_pipe else path.read_bytes()
        except OSError as error:
            raise RowError(f"{error.strerror}", "unreadable", name) from None
        if is_pipe:
            raise RowError("no plain file", "unreadable", name)
        try:
            image_size(data)
        except DataError as error:
            raise RowError(str(error), "undecodable", name) from None
        return EncodedImage(data, _extension(path))

    def identity(self, name: str) -> list[str | int]:
        try:
            status = Path(name).stat()
        except OSError:
            return ["missing-image"]
        return [Path(name).name, status.st_size, status.st_mtime_ns]

    def file_name(self, name: str) -> str:
        return whole_characters(self._names[Path(name)])


@dataclass(frozen=True, slots=True)
class PhotoReader:
    """Reads a picture as the item that it is, see `captions.items.ItemReader`."""

    names: Mapping[Path, str]
    captions: "PictureCaptions | None" = None

    def __call__(self, path: Path, max_images: int) -> Iterator[Item | RowError]:
        name = whole_characters(self.names[path])
        if _extension(path) not in IMAGE_EXTENSIONS:
            error = f"pictures that end in {path.suffix} are not read; make them .jpg or .png"
            yield RowError(error, "unread-picture", name)
            return
        texts, meta, origin = self.captions.of(self.names[path]) if self.captions else ([], {}, {})
        try:
            text = texts[0] if texts else _text_beside(path, name)
        except RowError as error:
            yield error
            return
        yield Item(
            name=name,
            images=(str(path),),
            files=(name,),
            text=text,
            meta={**meta, **({"captions": texts} if len(texts) > 1 else {})},
            origin=origin,
        )


def _text_beside(picture: Path, name: str) -> str | None:
    """The text of PICTURE.txt, or of PICTURE.jpg.txt; raises RowError for one that cannot be read in UTF-8."""
    for path in (*map(picture.with_suffix, (".txt", ".TXT")), picture.with_name(f"{picture.name}.txt")):
        try:
            if path.is_file():
                return path.read_text(encoding="utf-8-sig").strip() or None
        except UnicodeDecodeError as error:
            text = f"{path.name} is not in UTF-8: {error.reason}; save it in UTF-8"
            raise RowError(text, "not-utf8", name) from None
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:  # no file is called so
                raise RowError(f"{path.name}: {error.strerror}", "unreadable", name) from None
    return None


class PictureCaptions:
    """The rows of tables by the picture that they name, in a file of SQLite's that goes with the process.

    Rows that belong to no picture are kept with what is wrong with them, to be told.
    """

    def __init__(
        self, tables: Sequence[Path], names: Iterable[str], *, picture: str = "", text: str = ""
    ) -> None:
        """Raises DataError for a table that is not there, lacks the columns, or names none of the pictures."""
        self._names = _Names(list(names))
        self._tables = list(dict.fromkeys(tables))
        self._num_rows: dict[Path, int] = {}
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE line (picture TEXT, text TEXT, meta BLOB, file TEXT, number INTEGER)"
        )
        self._database.execute("CREATE TABLE stray (file INTEGER, number INTEGER, error TEXT)")
        for table in self._tables:
            self._add_table(table, picture, text)
        self._database.execute("CREATE INDEX by_picture ON line (picture)")

    def report_unmatched(self, path: Path) -> None:
        """Write the pictures without a row and the rows of no picture into a file, and warn of them.

        One of an earlier time is removed where all are matched.
        """
        first, num = list[str](), 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path), aside(path).open("wb") as file:
            for name in map(whole_characters, self._unnamed()):
                num += 1
                first += [name] if num <= MAX_NAMED else []
                file.write(to_json_bytes({"picture": name, "error": "no row names it"}) + b"\n")
            for table, number, error in self._database.execute("SELECT * FROM stray ORDER BY rowid"):
                stray = {"table": whole_characters(self._tables[table].name), "row": number, "error": error}
                file.write(to_json_bytes(stray) + b"\n")
        told = [*self._rows_told()]
        if num:
            which = _first_of(first, num)
            told.insert(0, f"{num:,} of {len(self._names.names):,} pictures have no row in the table: {which}")
        if told:
            aside(path).rename(path)
        else:
            aside(path).unlink()
            path.unlink(missing_ok=True)
        for text in told:
            warn(f"{text}; {path} names them all", DataWarning, stacklevel=3)

    def _unnamed(self) -> Iterator[str]:
        query = "SELECT 1 FROM line WHERE picture = ? LIMIT 1"
        for name in self._names.names:
            if self._database.execute(query, (_stored(name),)).fetchone() is None:
                yield name

    def _rows_told(self) -> Iterator[str]:
        for table, num_rows in self._num_rows.items():
            if num := self._num_strays(table):
                query = "SELECT number, error FROM stray WHERE file = ? ORDER BY rowid LIMIT ?"
                rows = self._database.execute(query, (self._tables.index(table), MAX_NAMED))
                first = _first_of([f"row {number} {error}" for number, error in rows], num)
                yield f"{table}: {num:,} of {num_rows:,} rows are of no picture in the folder, {first}"

    def _num_strays(self, table: Path) -> int:
        query = "SELECT count(*) FROM stray WHERE file = ?"
        return int(self._database.execute(query, (self._tables.index(table),)).fetchone()[0])

    def of(self, name: str) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
        """The captions of a picture, what its first row says beside, and which row of which table that is."""
        query = "SELECT text, meta, file, number FROM line WHERE picture = ? ORDER BY rowid"
        rows = self._database.execute(query, (_stored(name),)).fetchall()
        if not rows:
            return [], {}, {}
        _, meta, file, number = rows[0]
        texts = list(dict.fromkeys(text for text, *_ in rows if text))
        return texts, load_json(meta), {"file": file, "row": number}

    def _add_table(self, table: Path, picture: str, text: str) -> None:
        if not table.is_file():
            raise DataError(f"--captions {table}: there is no such file")
        columns = columns_of(table)
        named = picture_column(table, columns, picture)
        said = text_column(table, columns, text)
        number = 0
        with _naming_full_disk():
            self._database.execute("BEGIN")
            for number, row in enumerate(stream_rows(table), 1):
                try:
                    if isinstance(row, RowError):
                        raise row
                    value = row.get(named)
                    found = self._names.find(value)
                    if found is None:
                        self._set_apart(table, number, f"names {shown(value)}")
                        continue
                    captions = captions_in(row.get(said) if said else None) or [""]
                    meta = metadata(row, (named, said))
                except RowError as error:
                    self._set_apart(table, number, str(error))
                    continue
                about = (to_json_bytes(meta), table.name, number)
                lines = [(_stored(found), caption.strip(), *about) for caption in captions]
                self._database.executemany("INSERT INTO line VALUES (?, ?, ?, ?, ?)", lines)
            self._database.execute("COMMIT")
        self._num_rows[table] = number
        self._check_named(table, named)

    def _set_apart(self, table: Path, number: int, error: str) -> None:
        values = (self._tables.index(table), number, whole_characters(error))
        self._database.execute("INSERT INTO stray VALUES (?, ?, ?)", values)

    def _check_named(self, table: Path, column: str) -> None:
        """Raise DataError for a table of which no row is of a picture."""
        num_rows = self._num_rows[table]
        if self._num_strays(table) < num_rows:
            return
        why = "it has no rows"
        if num_rows:
            query = "SELECT number, error FROM stray WHERE file = ? LIMIT 1"
            number, error = self._database.execute(query, (self._tables.index(table),)).fetchone()
            why = f"row {number} {error}, and a picture is {self._names.names[0]!r}"
        raise DataError(
            f"{table}: none of its {num_rows:,} rows is of a picture in the folder: {why}; --picture "
            f"says which column names them (now {column!r})"
        )


@contextmanager
def _naming_full_disk() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise DataError(f"{tempfile.gettempdir()}: {error}; set TMPDIR to a folder with room") from None


def _first_of(first: Sequence[str], num: int) -> str:
    """The first few of so many, and how many more there are."""
    more = f" and {num - len(first):,} more" if num > len(first) else ""
    return ", ".join(first) + more


def _stored(name: str) -> str:
    """A name that SQLite takes: it may hold half a character."""
    return name.encode("utf-8", "surrogateescape").hex() if not name.isascii() else name


@dataclass(slots=True)
class _Names:
    """Pictures by the names that tables may give them."""

    names: Sequence[str]
    _by_path: dict[str, str] = field(default_factory=dict)
    _by_less: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.names:
            path = PurePosixPath(plain_path(name))
            self._by_path[str(path)] = name
            for less in {path.name, str(path.with_suffix("")), path.stem, _number(path.stem)} - {str(path), ""}:
                self._by_less[less] = None if self._by_less.get(less, name) != name else name

    def find(self, value: Any) -> str | None:
        """The one picture that a table calls so: by its path, the end of that, or its name without ending."""
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            return None
        path = plain_path(str(value))
        parts = path.split("/")
        for start in range(len(parts)):
            if name := self._by_path.get("/".join(parts[start:])):
                return name
        last = PurePosixPath(parts[-1])
        less = (path, last.name, last.stem if _extension(Path(last)) in _PICTURES else "", _number(path))
        return next((name for one in less if (name := self._by_less.get(one))), None)


def _number(text: str) -> str:
    """What is equal for 42 and 000000042, "" for what is no number."""
    return f"#{int(text)}" if text.isdecimal() and len(text) < 20 else ""
