"""The keys of samples that are made of other data: numbers, names of files, or a column's values."""

import re
import unicodedata
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from vila2cli.files import whole_characters
from vila2cli.formats.captions.items import Item
from vila2cli.formats.reading import RowError

NUMBER, NAME = "number", "name"
_ODD = re.compile(r"[\x00-\x1f\x7f]|^_+|^\.+")


class Keys:
    """Gives each item its key: its number, the name of its picture's file, or a field of its JSON.

    Numbers have `prefix` before them, which tells one data set's from another's. They are also the keys of
    items that cannot be used.
    """

    def __init__(self, how: str = NUMBER, prefix: str = "") -> None:
        self.how, self._prefix = how, prefix
        self._given: set[str] = set()

    def number(self, index: int) -> str:
        return f"{self._prefix}{index:09d}"

    def of(self, index: int, item: Item) -> str:
        """The key of an item; raises RowError where its column is empty, or says what an earlier one says."""
        if self.how == NUMBER or (self.how == NAME and not item.file):
            return self.number(index)
        if self.how == NAME:
            return self._add(self._unlike_others(key_from_name(item.file)))
        value = item.meta.get(self.how)
        key = key_from_text(str(value)) if isinstance(value, str | int) else ""
        if not key:
            raise RowError(f"{item.name} has no {self.how!r} to be its key", "no-key")
        if key in self._given:
            raise RowError(f"{item.name} has the key {key!r} of an earlier item", "duplicate-key")
        return self._add(key)

    def _unlike_others(self, key: str) -> str:
        """The key, with a number behind it where it is taken: a.jpg and a.png may lie side by side."""
        number, chosen = 1, key
        while chosen in self._given:
            number += 1
            chosen = f"{key}-{number}"
        return chosen

    def _add(self, key: str) -> str:
        self._given.add(key)
        return key


def key_from_name(name: str) -> str:
    """A key from a path or URL of a picture, without its ending."""
    path = PurePosixPath(plain_path(name))
    return key_from_text(str(path.with_suffix(""))) if path.name else "picture"


def key_from_text(text: str) -> str:
    """The text as a key that each reader of tars gets back: no dots in its last part, nothing above it."""
    parts = [_ODD.sub("", part).strip() for part in text.strip().split("/") if part not in ("", ".", "..")]
    parts = [whole_characters(part) for part in parts if part]
    return "/".join([*parts[:-1], parts[-1].replace(".", "-")]) if parts else ""


def plain_path(name: str) -> str:
    """A path as files write it: of a URL its last part, with slashes and no `./`, in composed characters."""
    if "://" in name:
        try:
            name = unquote(urlsplit(name).path).rpartition("/")[2]
        except ValueError:  # such as http://[x
            name = name.rpartition("/")[2]
    parts = [part for part in name.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    return unicodedata.normalize("NFC", "/".join(parts))
