"""Quotation marks in tables that are part of the text, or have blanks behind them."""

from pathlib import Path

from vila2cli.formats.delimited import delimited_rows
from vila2cli.formats.reading import Row


def test_blanks_behind_quotation_marks_cost_no_row(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text('file,caption\n"a.jpg" ,"A dog, sitting" \nb.jpg,"A cat" here\n')
    rows = [row.fields for row in delimited_rows(table) if isinstance(row, Row)]
    assert rows == [
        {"file": "a.jpg", "caption": "A dog, sitting"},
        {"file": "b.jpg", "caption": '"A cat" here'},
    ]


def test_quotation_marks_of_a_text_take_no_further_lines(tmp_path: Path) -> None:
    table = tmp_path / "a.tsv"
    lines = ["a.jpg\ta dog", 'b.jpg\t"Hello there', 'c.jpg\ta 5" pipe', 'd.jpg\t"The end', "e.jpg\ta cat"]
    table.write_text("\n".join(["file\tcaption", *lines]))
    rows = [row for row in delimited_rows(table) if isinstance(row, Row)]
    assert ["\t".join(row.fields.values()) for row in rows] == lines
    assert [row.line for row in rows] == [2, 3, 4, 5, 6]
