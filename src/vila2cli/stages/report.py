"""`vila2 report`: a run folder as one HTML page, and cards of what it made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vila2cli.errors import DataError, RecipeError
from vila2cli.files import refuse_foreign
from vila2cli.report import build_page, render_page
from vila2cli.report.cards import CARD_FILE, card, find_cards
from vila2cli.report.listing import RunTable, check_is_run, find_runs, run_table
from vila2cli.run.folder import RunFolder, write_text
from vila2cli.run.results import StageResult
from vila2cli.settings.recipe import Recipe

PAGE_MARK = 'name="generator" content="vila2cli'
CARD_MARKS = ("- vila2\n", "`vila2 ")


@dataclass(frozen=True, slots=True)
class Report(StageResult):
    """Where a report is."""

    report: Path


@dataclass(frozen=True, slots=True)
class Cards(StageResult):
    """Where cards are."""

    cards: Sequence[Path]

    def lines(self) -> Iterator[str]:
        return (f"card: {path}" for path in self.cards)


@dataclass(frozen=True, slots=True)
class Runs(StageResult):
    """The runs in a folder."""

    runs: Sequence[RunTable]


def report(recipe: Recipe | None = None, *, run_dir: Path, out: Path | None = None) -> Report:
    """Write the report of a run folder to `out`, by default `run_dir/report.html`.

    The page tells of the run's own recipe, which its stages stored; `recipe` says prices, and stands in for
    it where none is stored. Stages that have not run are stated as such. Raises DataError, and writes
    nothing, where there is no run.
    """
    check_is_run(run_dir)
    path = out or RunFolder(run_dir).report
    refuse_foreign(path, PAGE_MARK)
    write_text(path, render_page(build_page(recipe, run_dir)))
    return Report(path)


def cards(recipe: Recipe, *, folder: Path, out: Path | None = None) -> Cards:
    """Write the card of a checkpoint or layer, or of all that a run folder holds.

    A card is README.md in the folder it is about, or the file `out` when there is one card. Raises
    DataError when there is nothing to write a card of, RecipeError for `out` with several.
    """
    made = find_cards(folder)
    if out is not None and len(made) > 1:
        raise RecipeError(f"--out is for one card, but {folder} holds {len(made)} checkpoints and layers")
    written = []
    for checkpoint_or_layer in made:
        path = out or checkpoint_or_layer / CARD_FILE
        refuse_foreign(path, *CARD_MARKS)
        write_text(path, card(checkpoint_or_layer, recipe))
        written.append(path)
    return Cards(written)


def runs(recipe: Recipe, *, folder: Path) -> Runs:
    """How far each run in a folder is, with its headline figures; of one run also its report's verdict.

    Raises RecipeError where there is no such folder, DataError where it holds no run.
    """
    if not folder.is_dir():
        raise RecipeError(f"there is no folder {folder}; name the folder that holds the runs")
    found = find_runs(folder)
    if not found:
        raise DataError(f"there is no run in {folder}; a run folder has a folder round0")
    return Runs([run_table(run_dir, recipe, with_verdict=len(found) == 1) for run_dir in found])
