"""Rows of foreign files: what is wrong with one names file, row, field and what was there."""

import gzip
import json
import subprocess
import sys

import pytest

from vila2cli.errors import DataError
from vila2cli.formats.reading import Row, RowError, read_rows, read_values, stated, stream_rows


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (lambda row: row.need("b"), "q.json, row 3: has no 'b'; it has ['a', 'c']"),
        (lambda row: row.need("n"), "q.json, row 3: has no 'n'; it has ['a', 'c']"),
        (lambda row: row.text("a"), "q.json, row 3: a is 7, not text"),
        (lambda row: row.id("c"), "q.json, row 3: c is [1, None], not a number or text"),
        (lambda row: row.strings("c"), "q.json, row 3: c is [1, None], not a list of texts"),
        (lambda row: row.listed("a"), "q.json, row 3: a is 7, not a list"),
        (lambda row: row.need_rows("c"), "q.json, row 3: c is [1, None], not a list of objects"),
        (lambda row: list(row.rows("c"))[1].text("x"), "q.json, row 3: c[1]: is None, not an object"),
        (lambda row: row.box(row.get("c"), "c"), "q.json, row 3: c is [1, None], not four numbers"),
        (lambda row: row.number(True, "c[0]"), "q.json, row 3: c[0] is True, not a finite number"),
        (lambda row: row.number(10**400, "c[0]"), "q.json, row 3: c[0] is 1000"),
        (lambda row: row.size("a", "b"), "q.json, row 3: b is None, not a finite number"),
    ],
)
def test_an_error_names_file_row_field_and_value(read, error):
    with pytest.raises(RowError) as caught:
        read(Row({"a": 7, "c": [1, None], "n": None}, "q.json, row 3"))
    assert str(caught.value).startswith(error)
    assert isinstance(caught.value, DataError), "an import ends with it as one line"


def test_what_may_be_missing():
    row = Row({"a": 7}, "q.json, row 3")
    assert (list(row.rows("b")), row.listed("b"), row.size(), stated(row.text, "a")) == ([], [], None, None)
    assert stated(row.id, "a") == 7


def test_values_one_after_the_other(tmp_path):
    path = tmp_path / "v.json"
    path.write_text('\ufeff{"a": 1}\n\n{"a":\n 2} [3]\n ')
    assert read_values(path) == [{"a": 1}, {"a": 2}, [3]]
    path.write_text('{"a": 1}\n{"a": 2\n')
    with pytest.raises(DataError, match=r"v\.json, line 2: no JSON"):
        read_values(path)


def test_rows_of_large_files_are_counted_one_by_one(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": NaN}\n\n7\n{"a": "\\ud800"}\n{"a"\n'))
    first, *others = stream_rows(path)
    assert isinstance(first, Row)
    assert (first.value, first.where) == ({"a": None}, "rows.jsonl.gz, item 1")
    assert [(error.reason, str(error)[:25]) for error in others if isinstance(error, RowError)] == [
        ("bad-row", "rows.jsonl.gz: line 3 is "),
        ("not-utf8", "rows.jsonl.gz: line 4 hol"),
        ("bad-row", "rows.jsonl.gz: line 5 is "),
    ]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"cannot read .*rows\.jsonl\.gz"):
        list(stream_rows(path))


@pytest.mark.parametrize("name", ["stream_rows", "read_rows"])
def test_without_pyarrow_both_ways_say_what_to_install(tmp_path, name):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    code = (
        "import sys, pathlib; sys.modules['pyarrow'] = None\n"
        f"from vila2cli.formats.reading import {name}\n"
        f"list({name}(pathlib.Path({json.dumps(str(tmp_path / 'a.parquet'))})))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "pip install 'vila2cli[parquet]'" in ended.stderr


def test_parquet_rows_are_those_of_json_lines(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"id": "a", "options": ["x", "y"]}, {"id": "b", "options": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "r.parquet")
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for read in (read_rows, stream_rows):
        assert [row.value for name in ("r.parquet", "r.jsonl") for row in read(tmp_path / name)] == 2 * rows


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_quotation_marks_in_tables_swallow_no_row(name, tmp_path):
    path = tmp_path / name
    between = "," if name.endswith("csv") else "\t"

    def rows(*lines):
        path.write_text("\n".join(line.replace("|", between) for line in ("file|caption", *lines)) + "\n")
        return [row if isinstance(row, RowError) else row.get("caption") for row in stream_rows(path)]

    assert rows('a|"Stop" says a sign', 'b|a "big" sign', 'c|"two', 'lines, ""x"""', "d|end") == [
        '"Stop" says a sign',
        'a "big" sign',
        'two\nlines, "x"',
        "end",
    ]
    assert rows('a|"never closed', "b|second", 'c|"third"', "d|end") == [
        '"never closed',
        "second",
        "third",
        "end",
    ]
    lost, last = rows('a|"never closed', "in two lines", 'c|"third"', "d|end")
    assert last == "end"
    assert "lines 2 to 4: a field goes on behind its closing quotation mark" in str(lost)
    for lines in (('b|"never closed', "in two lines"), ('b|"cut',)):
        with pytest.raises(DataError, match="opens a field on line 3 that is never closed"):
            rows("a|first", *lines)
