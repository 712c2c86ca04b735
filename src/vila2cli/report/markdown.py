"""Markdown for cards: tables and text in which nothing untrusted is markup."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vila2cli.report.json_reader import JsonReader, table_of
from vila2cli.report.wording import visible

MAX_CELL = 300
MAX_EXAMPLES = 2
"""Rejected samples quoted for each reason."""
_MARKUP = re.compile(r"([\\`*_\[\]>|#~$&!@]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
"""What starts Markdown, or a link where addresses become links by themselves."""


def plain(text: object, limit: int = MAX_CELL) -> str:
    """Any value on one line, as Markdown and HTML that show it and obey none of it."""
    return _MARKUP.sub(r"\\\1", " ".join(visible(text, limit).split())).replace("<", "&lt;")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of untrusted cells; "" without rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def card_name(folder: Path) -> str:
    """What a card calls a folder: the round and the stage of it, on one line."""
    place = folder.resolve()
    return " ".join(visible(f"{place.parent.name}-{place.name}", MAX_CELL).split())


def section(title: str, *parts: str) -> str:
    """A heading with what is there under it; "" when there is nothing."""
    kept = [part for part in parts if part]
    return "\n\n".join([f"## {title}", *kept]) if kept else ""


def counts(values: object) -> list[tuple[str, int]]:
    """Counts by name, the largest first; what is no count is left out."""
    kept = [(name, count) for name, count in table_of(values).items() if isinstance(count, int) and count > 0]
    return sorted(kept, key=lambda pair: -pair[1])


def count_rows(summary: Mapping[str, Any], kind: str) -> list[tuple[str, str]]:
    """The counts that a summary has under a name, as rows of a table."""
    return [(f"{kind}: {name}", f"{num:,}") for name, num in counts(summary.get(kind))]


def document(head: str, body: Sequence[str]) -> str:
    """A card: the YAML head between lines of dashes, then the sections that are not empty."""
    return f"---\n{head}\n---\n\n" + "\n\n".join(part for part in body if part) + "\n"


def damaged(reader: JsonReader) -> str:
    """The files that could not be read, a line each."""
    return "".join(f"- could not be read: {plain(line)}\n" for line in dict.fromkeys(reader.damaged)).strip()


def reject_lines(folder: Path, reader: JsonReader, what: str) -> list[str]:
    """How many samples were rejected for each reason, with examples; `what` happened to them."""
    by_reason: dict[str, list[str]] = {}
    for line in reader.lines(folder / "rejects.jsonl"):
        by_reason.setdefault(str(line.get("reason", "")), []).append(str(line.get("error", "")))
    return [
        f"- {len(errors):,} samples {what}: {plain(reason, 60)}, for example "
        + "; ".join(plain(error, 120) for error in errors[:MAX_EXAMPLES])
        for reason, errors in sorted(by_reason.items())
    ]
