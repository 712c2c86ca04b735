"""The recipe reference of the guide, written from the settings.

python tests/guide/reference.py
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vila2cli.settings import describe

PAGE = Path(__file__).parents[2] / "docs" / "recipe.md"
SHARED = ("Every stage that asks a model", "Every stage that trains")
_FEW = 2
"""Sets of so many tables have a section of their own, as `[engine]` and `[engines.NAME]` do."""
_SECTION = re.compile(r"(<!-- reference: [^>]*-->\n).*?(<!-- /reference -->)", re.DOTALL)


@dataclass(slots=True)
class Key:
    """A key that means the same in every table that has it, and its default in each."""

    name: str
    kind: str
    doc: str
    defaults: dict[str, str] = field(default_factory=dict)

    def row(self, *, has_tables: bool) -> str:
        """Its line in a table; `has_tables` where the section does not say which tables have it."""
        tables = [", ".join(f"`{table}`" for table in self.defaults)] if has_tables else []
        doc = self.doc.replace("|", r"\|")
        return (
            f"| {' | '.join([f'`{self.name}`', *tables, self.kind.replace('|', 'or'), self._default(), doc])} |"
        )

    def _default(self) -> str:
        """The default; where tables differ, each with its own but for the first."""
        usual = next(iter(self.defaults.values()))
        others = [
            f"`{default}` in {_named(table)}" for table, default in self.defaults.items() if default != usual
        ]
        return "; ".join([_shown(usual), *others])


def keys() -> list[Key]:
    """Every distinct key once, in the order of the tables."""
    found: dict[tuple[str, str, str], Key] = {}
    for path, kind, default, doc in describe():
        table, name = _split(path)
        key = found.setdefault((name, kind, doc), Key(name, kind, doc))
        key.defaults[table] = _text(default)
    return list(found.values())


def _split(path: str) -> tuple[str, str]:
    """The table and the name of a key; `chat_template.KEY` is one name, the place of any other."""
    *table, name = path.split(".")
    if name == "KEY" and table:
        name = f"{table.pop()}.KEY"
    return ".".join(table), name


def _text(default: Any) -> str:
    if isinstance(default, bool):
        return json.dumps(default)
    if isinstance(default, tuple):
        return str(list(default))
    if default is None:
        return "none"
    text = str(default)
    return text if text.isprintable() and text else json.dumps(text)


def _shown(default: str) -> str:
    return default if default.startswith("that of") or default in ("required", "none") else f"`{default}`"


def _named(table: str) -> str:
    return f"`[{table}]`" if table else "the top of the file"


def reference() -> str:
    """A section for each set of tables, in their order; what many stages share is in one of two."""
    sections: dict[str, list[Key]] = {}
    for key in keys():
        sections.setdefault(_title(key), []).append(key)
    return "\n\n".join(_section(title, found, has_tables=title in SHARED) for title, found in sections.items())


def _title(key: Key) -> str:
    if len(key.defaults) > _FEW and "sft" in key.defaults.keys() | {
        table.split(".")[0] for table in key.defaults
    }:
        return SHARED[1]
    if len(key.defaults) > _FEW and "recaption" in key.defaults:
        return SHARED[0]
    return ", ".join(map(_named, key.defaults)).replace("the top", "The top")


def _section(title: str, found: Iterable[Key], *, has_tables: bool = False) -> str:
    columns = ["key", *(["in the tables"] if has_tables else []), "type", "default", "meaning"]
    head = [f"### {title}", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join([*head, *(key.row(has_tables=has_tables) for key in found)])


def written(page: str) -> str:
    """A page with the reference written anew between its marks."""
    new, num = _SECTION.subn(lambda marks: f"{marks[1]}{reference()}\n{marks[2]}", page)
    assert num == 1, "the page has no <!-- reference: --> section"
    return new


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
