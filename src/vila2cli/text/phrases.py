"""The table of what assistants say around captions and in place of them, by language (phrases.toml)."""

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


@functools.cache
def phrases() -> Mapping[str, Mapping[str, Any]]:
    """The phrases of every language that captions can be requested in, as regular expressions by kind.

    phrases.toml says what each kind is; `refusals` are several, the others one expression.
    """
    return tomllib.loads(Path(__file__).with_name("phrases.toml").read_text(encoding="utf-8"))
