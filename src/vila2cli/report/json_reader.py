"""JSON files that somebody else may have written: read as far as they make sense, the rest is noted."""

import json
from pathlib import Path
from typing import Any

from vila2cli.report.wording import visible

MAX_FILE_BYTES = 64_000_000
"""A JSON file over this size is noted as damaged instead of being read."""


class JsonReader:
    """Reads untrusted JSON objects; what does not parse becomes a note instead of an exception."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.damaged: list[str] = []

    def read(self, path: Path) -> dict[str, Any]:
        """The object in a file, empty when the file is missing or damaged."""
        if not path.is_file():
            return {}
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError(f"larger than {MAX_FILE_BYTES:,} bytes")
            value = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            self.note(path, error)
            return {}
        if not isinstance(value, dict):
            self.note(path, "not a JSON object")
            return {}
        return value

    def lines(self, path: Path) -> list[dict[str, Any]]:
        """The objects of a JSON-lines file; lines that do not parse are counted in one note."""
        if not path.is_file():
            return []
        values, num_bad = [], 0
        try:
            with path.open("rb") as file:
                for line in file:
                    try:
                        value = json.loads(line)
                    except (ValueError, RecursionError):
                        value = None
                    if isinstance(value, dict):
                        values.append(value)
                    else:
                        num_bad += 1
        except OSError as error:
            self.note(path, error)
        if num_bad:
            self.note(path, f"{num_bad} lines are no JSON objects")
        return values

    def note(self, path: Path, problem: object) -> None:
        try:
            name: object = path.relative_to(self.run_dir)
        except ValueError:
            name = path
        self.damaged.append(visible(f"{name}: {problem}", 300))


def table_of(value: object) -> dict[str, Any]:
    """A JSON object from a file, empty for anything else."""
    return value if isinstance(value, dict) else {}


def tables_of(value: object) -> list[dict[str, Any]]:
    """The objects in a list from a file, none for anything else."""
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def whole(value: object) -> int:
    """A count from a file: whole and not negative, else 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def real(value: object) -> float | None:
    """A finite number from a file, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 else None
