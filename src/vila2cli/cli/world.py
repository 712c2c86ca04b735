"""`vila2 world`: the embedded data and the base models over it."""

from pathlib import Path
from typing import Annotated

import typer

from vila2cli.cli.documents import DryRunOfCommand
from vila2cli.cli.options import DryRun, OutThere, RecipeFile, Sets
from vila2cli.cli.paths import open_recipe
from vila2cli.cli.terminal import say, show
from vila2cli.run.stages import WORLD_DIR
from vila2cli.settings.recipe import resolved, resolved_lines

FINE_PRINT_DIR = Path("data/fine-print")

app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)


@app.callback()
def world(
    context: typer.Context,
    out: OutThere = WORLD_DIR,
    recipe: RecipeFile = None,
    sets: Sets = None,
    dry_run: DryRun = False,
) -> None:
    """Write the embedded data: shards for every stage.

    \b
    vila2 world
    vila2 world --set world.num_pretrain=500 --out data/small
    """
    if context.invoked_subcommand is not None:
        return
    _draw("world", out, recipe, sets, dry_run=dry_run)


@app.command("fine-print")
def fine_print(
    out: OutThere = FINE_PRINT_DIR,
    recipe: RecipeFile = None,
    sets: Sets = None,
    dry_run: DryRun = False,
) -> None:
    """Write the embedded data's pages of fine print, read in tiles.

    As many pages for pretraining, SFT, the OCR specialist and each task as [world] has pictures.

    \b
    vila2 world fine-print --recipe fine-print
    vila2 pretrain --recipe fine-print --round 0
    """
    _draw("world fine-print", out, recipe, sets, dry_run=dry_run)


def _draw(command: str, out: Path, recipe: Path | None, sets: list[str] | None, *, dry_run: bool) -> None:
    settings = open_recipe(recipe, sets)
    if dry_run:
        lines = resolved_lines(settings, ("world",))
        show(
            DryRunOfCommand(dry_run=True, settings=resolved(settings, ("world",)), out_dir=out),
            [*lines, f"writes: {out}"],
        )
        return
    say(f"{command}: writing {out}")
    from vila2cli.world.fine_print import write_fine_print
    from vila2cli.world.write import write_world

    written = (write_world if command == "world" else write_fine_print)(settings, out)
    say(f"{command}: done ({out})")
    show(written, [f"  {line}" for line in written.lines()])


@app.command("base")
def base(
    out: OutThere = Path("world-bases"),
    seed: Annotated[int, typer.Option("--seed", help="Seed of the weights and of the training scenes.")] = 0,
) -> None:
    """Train the embedded world's vision tower and LLM from nothing.

    The two models come with the package; this is how they were made, in some 20 minutes on two cores.

    \b
    vila2 world base --out world-bases
    """
    say(f"world base: writing {out}")
    from vila2cli.world.make_bases import build_bases

    figures = build_bases(out, seed=seed)
    say(f"world base: done ({out})")
    show(figures, [f"  {line}" for line in figures.lines()])
