"""`vila2 lineage`: print what a checkpoint or layer was made from."""

from pathlib import Path
from typing import Annotated

import typer

from vila2cli.cli.terminal import show


def lineage(
    path: Annotated[Path, typer.Argument(help="Checkpoint or layer folder.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash the weights again and say which have changed.")
    ] = False,
) -> None:
    """Print the tree of what a checkpoint or layer was made from.

    \b
    vila2 lineage runs/world/round3/sft
    """
    from vila2cli.stages.lineage import lineage as run_stage

    show(run_stage(path, verify=verify))
