"""The table of what assistants say around captions and in place of them, by language (phrases.toml)."""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrases:
    """One language's, as regular expressions; phrases.toml says what each of them is."""

    agrees: str
    here_is: str
    caption: str
    label: str
    offers: str
    refusals: tuple[str, ...]


@functools.cache
def phrases() -> Mapping[str, Phrases]:
    """The phrases of every language that captions can be asked in."""
    table = tomllib.loads(Path(__file__).with_name("phrases.toml").read_text(encoding="utf-8"))
    return {
        language: Phrases(**{**known, "refusals": tuple(known["refusals"])})
        for language, known in table.items()
    }
