"""Blanks between a closing quotation mark and the delimiter."""

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
