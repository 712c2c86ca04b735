"""Numbers and untrusted text as they stand on the page."""

import math
from collections.abc import Sequence

from vila2cli.text.printable import printable, shortened

MAX_TEXT = 1_200
"""Characters of one caption that the page shows; a runaway caption of 100 kB must not swamp it."""

MINUS = "\N{MINUS SIGN}"
NOT_RUN = "–"
"""What a cell shows where there is no value."""


def visible(text: object, limit: int = MAX_TEXT) -> str:
    """Any value as text that cannot disturb the page around it.

    Control characters (ANSI escapes, NUL), direction overrides and lone surrogates are written
    out, and what is over `limit` characters is counted. HTML is left to the template's escaping.
    """
    return printable(shortened(str(text), limit), keep_newlines=True)


def number(value: float, digits: int = 3) -> str:
    """A value with a fixed number of decimals and a real minus sign."""
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")
    return text.replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    text = number(value, digits)
    return text if text.startswith(MINUS) or not text.strip("0.") else f"+{text}"


def points(difference: float) -> str:
    """A difference of two shares in points of a percent: `+5.0 points`."""
    return f"{signed(100 * difference, 1)} points"


def compact(value: float) -> str:
    """An axis label or count with three significant digits: 0.25, 12, 4.1k, 38M."""
    size = abs(value)
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= scale:
            return f"{value / (1e3 if unit == 'k' else scale):.3g}{unit}".replace("-", MINUS)
    return f"{value:.4g}".replace("-", MINUS)


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600):,} h {int(seconds % 3600 // 60):02d} min"


def dollars(value: float) -> str:
    """An amount with cents, or with two significant digits where it is less."""
    if value >= 0.1 or value <= 0:
        return f"${value:,.2f}"
    return f"${value:.{1 - math.floor(math.log10(value))}f}".rstrip("0")


def join_words(parts: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return f" {last} ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
