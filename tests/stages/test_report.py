"""`vila2 report` as a stage: where the page goes, what is refused, what is not imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from vila2cli.errors import DataError
from vila2cli.settings.recipe import Recipe
from vila2cli.stages.report import report


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run whose first stage has begun."""
    folder = tmp_path / "runs" / "mine"
    (folder / "round0" / "pretrain.partial").mkdir(parents=True)
    return folder


def test_page_goes_into_the_run_folder(run_dir: Path) -> None:
    assert report(run_dir=run_dir).report == run_dir / "report.html"
    text = (run_dir / "report.html").read_text()
    assert text.startswith("<!doctype html>")
    assert "<h1>mine</h1>" in text


def test_out_is_replaced_whole(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "pages" / "mine.html"
    for _ in range(2):
        assert report(Recipe(), run_dir=run_dir, out=out).report == out
    assert [path.name for path in out.parent.iterdir()] == ["mine.html"]


def test_without_a_run_there_is_one_line_and_no_page(run_dir: Path, tmp_path: Path) -> None:
    beside = rf"name one, as in vila2 report {run_dir}"
    with pytest.raises(DataError, match=rf"there is no run folder .*gone; {beside}"):
        report(run_dir=run_dir.with_name("gone"))
    with pytest.raises(DataError, match=rf"runs holds no run; {beside}"):
        report(run_dir=run_dir.parent)
    empty = tmp_path / "other" / "empty"
    (empty / "round0").mkdir(parents=True)
    with pytest.raises(DataError, match=r"empty holds no run; run a stage first"):
        report(run_dir=empty)
    assert not list(tmp_path.rglob("report.html"))


def test_report_imports_no_torch() -> None:
    code = "import sys, vila2cli.stages.report; print({'torch', 'transformers', 'vllm'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
