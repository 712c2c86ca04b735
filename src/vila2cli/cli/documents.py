"""What commands print that run no stage: each is a result, as those of stages are, and JSON with `--json`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.run.results import StageResult, key


@dataclass(frozen=True, slots=True)
class Stored(StageResult):
    """The result of a stage that was complete before, or that other processes ran, as it was written."""

    values: Mapping[str, Any] = key("*")


@dataclass(frozen=True, slots=True)
class Failed(StageResult):
    """The stage that a run ended at, and the exit code of its command."""

    failed: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class Failure(StageResult):
    """The error that a command ended with."""

    error: str
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRunOfStage(StageResult):
    """What a stage would read and write, each setting with where it comes from."""

    stage: str
    round: int | str | None
    dry_run: bool
    recipe: Path | None
    settings: Mapping[str, Any]
    model: str | None
    inputs: Sequence[str]
    missing: Sequence[str]
    worker: str
    limit: int | None = None
    out: Path
    origins: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRunOfCommand(StageResult):
    """The settings of a command without shards, and where it would write."""

    dry_run: bool
    settings: Mapping[str, Any]
    models: Sequence[str] = ()
    out_dir: Path


@dataclass(frozen=True, slots=True)
class DryRunOfPage(StageResult):
    """The files that a page for people would have."""

    dry_run: bool
    writes: Sequence[Path]

    def lines(self) -> Iterator[str]:
        yield f"would write {' and '.join(map(str, self.writes))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOfRun:
    """One stage of a run: its command, its folder, and why it has to run, None where it is complete."""

    name: str
    command: Sequence[str]
    out: Path
    due: str | None


@dataclass(frozen=True, slots=True)
class RunStages(StageResult):
    """The stages of a run, with why those that are due have to run, or had to."""

    run_dir: Path
    stages: Sequence[StageOfRun]


@dataclass(frozen=True, slots=True)
class MakeRules(StageResult):
    """The lines of a makefile."""

    make: Sequence[str]

    def lines(self) -> Sequence[str]:
        return self.make


@dataclass(frozen=True, slots=True)
class Recipes(StageResult):
    """The recipes that come with the package by name, each with its first line."""

    firsts: Mapping[str, str] = key("*")

    def lines(self) -> Iterator[str]:
        width = max(map(len, self.firsts))
        return (f"{name:<{width}}  {first}" for name, first in self.firsts.items())


@dataclass(frozen=True, slots=True)
class RecipeText(StageResult):
    """One of those recipes."""

    name: str
    toml: str

    def lines(self) -> Sequence[str]:
        return self.toml.splitlines()


@dataclass(frozen=True, slots=True)
class FilesOfFormats(StageResult):
    """The files that each format is read from."""

    files: Mapping[str, str] = key("*")

    def lines(self) -> Iterator[str]:
        return (f"{name}: {needed}" for name, needed in self.files.items())
