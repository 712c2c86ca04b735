"""`vila2 report`: a run folder as one HTML page."""

from pathlib import Path

from vila2cli.errors import DataError
from vila2cli.recipe import Recipe
from vila2cli.report import build_page, render_page
from vila2cli.run import RunFolder, write_text


def report(recipe: Recipe, *, run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of a run folder to `out` (default `run_dir/report.html`) and return where it is.

    Stages that have not run are stated as such. Raises DataError when there is no run folder.
    """
    if not run_dir.is_dir():
        raise DataError(f"there is no run folder {run_dir}; run a stage first, or name it with --set name=...")
    path = out or RunFolder(run_dir).report
    write_text(path, render_page(build_page(recipe, run_dir)))
    return path
