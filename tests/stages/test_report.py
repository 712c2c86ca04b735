"""`vila2 report` as a stage: where the page goes, what is refused, what is not imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from vila2cli.errors import DataError
from vila2cli.settings.recipe import Recipe
from vila2cli.stages.report import report


def test_page_goes_into_the_run_folder(tmp_path: Path) -> None:
    assert report(Recipe(), run_dir=tmp_path) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_out_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "pages" / "mine.html"
    for _ in range(2):
        assert report(Recipe(), run_dir=tmp_path, out=out) == out
    assert [path.name for path in out.parent.iterdir()] == ["mine.html"]


def test_missing_run_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no run folder .*gone; run a stage first"):
        report(Recipe(), run_dir=tmp_path / "gone")


def test_report_imports_no_torch() -> None:
    code = "import sys, vila2cli.stages.report; print({'torch', 'transformers', 'vllm'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
