"""What the tables of the page are made of; `tables.html.j2` writes them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vila2cli.report.wording import NOT_RUN


@dataclass(frozen=True, slots=True)
class Cell:
    """A value as text, with small print beside it; `style` is a class of the style sheet."""

    text: str = NOT_RUN
    note: str = ""
    style: str = ""


Content = str | Cell | None


@dataclass(frozen=True, slots=True)
class TableRow:
    """One line: a label, with small print below it, and what stands in every column but the first."""

    label: str
    cells: tuple[Content, ...]
    note: str = ""
    style: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings, each with the class of its cells (num, long, time), and the sentence about them."""

    columns: Sequence[tuple[str, str]] = ()
    rows: tuple[TableRow, ...] = ()
    note: str = ""

    def styled(self, row: TableRow) -> Iterator[tuple[Content, str]]:
        """The cells of a row with their classes."""
        return zip(row.cells, (style for _, style in self.columns[1:]), strict=True)


def columns(*plain: str, num: Sequence[str] = (), long: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Headings of text, then of numbers, then of long text; the first is that of the labels."""
    styled = (("", plain), ("num", num), ("long", long))
    return [(name, style) for style, names in styled for name in names]
