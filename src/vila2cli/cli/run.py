"""`vila2 run`: the stages of a run on this machine, or as rules for make."""

import os
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from shlex import quote
from typing import Annotated

import typer

from vila2cli.cli.documents import MakeRules, RunStages, StageOfRun
from vila2cli.cli.make_rules import rules
from vila2cli.cli.options import DryRun, RecipeFile, Sets
from vila2cli.cli.paths import DEFAULT_RECIPE, open_recipe
from vila2cli.cli.terminal import say, show
from vila2cli.cli.walk import Machine, Walk
from vila2cli.errors import RecipeError, Vila2Error
from vila2cli.files import MARK, read_json
from vila2cli.ranks import num_cores
from vila2cli.run.folder import digest, write_json
from vila2cli.run.stages import Stage, goals_of, plan_stages
from vila2cli.settings.recipe import Recipe
from vila2cli.shards.credentials import masked

_NOTES = f"{MARK}settings.json"
"""In a run folder the digest of the settings that `vila2 run` last ran each stage with."""
_MAX_JOBS = 64
_NO_MATTER = ("rounds", "slurm", "cost")


class Form(StrEnum):
    """What `--print` writes."""

    make = "make"


def run(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TARGET]...",
            help="roundN, specialists, controls, final-CONTROL or world; the recipe's last round by default.",
        ),
    ] = None,
    form: Annotated[
        Form | None, typer.Option("--print", help="Write the stages as rules for make, and run nothing.")
    ] = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
    jobs: Annotated[
        str,
        typer.Option(
            "--jobs",
            metavar="N|auto",
            help="Stages at a time, each with its share of the machine; auto is two on CPUs, one on GPUs.",
        ),
    ] = "auto",
    dry_run: DryRun = False,
) -> None:
    """Run every stage that a target needs and that is not complete.

    \b
    vila2 run round1 --recipe world
    vila2 run round3 specialists --recipe my.toml --dry-run
    """
    settings = open_recipe(recipe, sets)
    if settings.path is None and not sets:
        raise RecipeError(
            f"there is no {DEFAULT_RECIPE} here; give --recipe with a file, or with a name that "
            "`vila2 recipe list` shows, as in --recipe world"
        )
    stages, flags = plan_stages(settings, *(targets or ())), recipe_flags(settings, sets)
    if form is not None:
        goals = goals_of(settings, *(targets or ()))
        show(MakeRules(list(rules(stages, goals, settings, flags))), is_whole=True)
    elif dry_run:
        due = _due(stages, settings)
        show(_document(stages, settings, due), _dry_run_lines(stages, settings, due))
    else:
        _walk(stages, settings, flags, _number(jobs))


def _number(jobs: str) -> str:
    if jobs != "auto" and not (jobs.isascii() and jobs.isdecimal() and 0 < int(jobs) <= _MAX_JOBS):
        raise RecipeError(f"--jobs {jobs}: give a number from 1 to {_MAX_JOBS}, or auto")
    return jobs


def recipe_flags(recipe: Recipe, sets: Sequence[str] | None) -> list[str]:
    """The recipe and settings as further commands are given them; raises RecipeError for a password."""
    for text in sets or ():
        if not text.startswith("prompts.") and masked(text) != text:
            raise RecipeError(
                f"--set {masked(text)} holds a password or signature, which would be written down with the "
                "commands; put it into the recipe file, or a key into the variable that api.key_env names"
            )
    path = [] if recipe.path is None else ["--recipe", str(recipe.path)]
    return [*path, *(word for text in sets or () for word in ("--set", text))]


def why_due(stage: Stage, recipe: Recipe, due: Sequence[str]) -> str:
    """Why a stage has to run, "" where it has not; `due` names the stages that run before it.

    A stage also runs again when a setting is not what it was then, and as in make when its recipe, or what it
    waits for, is newer than its output. It then finds out itself whether anything has changed for it.
    """
    absent = [str(marker) for marker in stage.markers if not marker.is_file()]
    if absent:
        return f"{absent[0]} is missing"
    if not stage.is_complete():
        return f"{stage.out} is incomplete"
    if before := [name for name in stage.after if name in due]:
        return f"{before[0]} comes before it"
    if _noted(recipe).get(stage.name, _settings(recipe)) != _settings(recipe):
        return "settings have changed"
    oldest = min(marker.stat().st_mtime_ns for marker in stage.markers)
    if recipe.path is None or stage.kind == "world" or recipe.path.stat().st_mtime_ns <= oldest:
        return ""
    return f"{recipe.path} is newer"


def _noted(recipe: Recipe) -> dict[str, str]:
    """The settings that each stage was last run with here, as digests by stage."""
    path = recipe.run_dir / _NOTES
    return read_json(path) if path.is_file() else {}


def _settings(recipe: Recipe) -> str:
    """All settings that may decide what a stage writes, as a digest."""
    return digest(recipe.model_dump(mode="json", exclude=set(_NO_MATTER)))


def _due(stages: Sequence[Stage], recipe: Recipe) -> dict[str, str]:
    """Why each of the stages that have to run does, by name."""
    due: dict[str, str] = {}
    for stage in stages:
        if reason := why_due(stage, recipe, list(due)):
            due[stage.name] = reason
    return due


def _document(stages: Sequence[Stage], recipe: Recipe, due: Mapping[str, str]) -> RunStages:
    """The stages, with why those that are `due` have to run, or had to."""
    rows = [
        StageOfRun(name=stage.name, command=["vila2", *stage.words], out=stage.out, due=due.get(stage.name))
        for stage in stages
    ]
    return RunStages(recipe.run_dir, rows)


def _dry_run_lines(stages: Sequence[Stage], recipe: Recipe, due: Mapping[str, str]) -> Iterator[str]:
    width = max(len(stage.name) for stage in stages)
    yield f"{len(due)} of {len(stages)} stages to run in {recipe.run_dir} (dry run, nothing is written)"
    if recipe.pretrain.model:
        yield f"every round continues from {recipe.pretrain.model}, none is trained from scratch"
    for stage in stages:
        state = f"run: {due[stage.name]}" if stage.name in due else "complete"
        yield f"{stage.name:<{width}}  vila2 {' '.join(stage.words)}  # {state}"


def _walk(stages: Sequence[Stage], recipe: Recipe, flags: Sequence[str], jobs: str) -> None:
    """Run what is due, each stage in a process of its own; raises Exit with the code of one that fails."""
    if not _due(stages, recipe):
        show(_document(stages, recipe, {}), _nothing_to_do(stages, recipe))
        return
    checked: list[Recipe] = []

    def reason(stage: Stage, ran: Sequence[str]) -> str:
        why = why_due(stage, recipe, ran)
        if why and not checked and stage.kind != "world":
            _check(recipe)
            checked.append(recipe)
        return why

    def note(stage: Stage) -> None:
        write_json(recipe.run_dir / _NOTES, {**_noted(recipe), stage.name: _settings(recipe)})

    machine = _machine(jobs)
    ran = Walk(stages, flags, machine.jobs(jobs), machine, reason, note).run()
    show(_document(stages, recipe, ran), [f"complete ({recipe.run_dir})", *_where_to_look(stages, recipe)])


def _nothing_to_do(stages: Sequence[Stage], recipe: Recipe) -> list[str]:
    return [f"complete, nothing to do ({recipe.run_dir})", *_where_to_look(stages, recipe)]


def _where_to_look(stages: Sequence[Stage], recipe: Recipe) -> Iterator[str]:
    """How to see what a run found, once something is evaluated."""
    if any(stage.kind == "eval" for stage in stages):
        yield f"  the figures, and whether another round helps: vila2 runs {quote(str(recipe.run_dir))}"
        yield f"  the same as a page, with the captions: vila2 report {quote(str(recipe.run_dir))}"


def _machine(jobs: str) -> Machine:
    if jobs == "1":
        return Machine(num_cores())
    from vila2cli.devices import gpu_names

    return Machine(num_cores(), tuple(gpu_names(os.environ)))


def _check(recipe: Recipe) -> None:
    """Look at what the run needs before its first hours; raises the first error that was found."""
    from vila2cli.run.forecast import count_data
    from vila2cli.stages.check import check_recipe

    failed = [finding for finding in check_recipe(recipe, count_data(recipe)) if finding.error]
    for finding in failed:
        say(finding.line())
    if failed:
        names = ", ".join(finding.what for finding in failed)
        raise (failed[0].error or Vila2Error)(f"{len(failed)} of the checks failed: {names}; see `vila2 check`")
