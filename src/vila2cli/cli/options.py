"""The options that several commands share, with one help text each."""

from pathlib import Path
from typing import Annotated

import typer

from vila2cli.errors import RecipeError
from vila2cli.shards.places import local_path, looks_remote, redacted

MANY = (
    "--shards",
    "--layers",
    "--tasks",
    "--models",
    "--captions",
    "--images",
    "--annotations",
    "--where",
    "--score-only",
    "--questions",
)
"""Options that take all words up to the next option, as the shell expands them from a glob."""

RecipeFile = Annotated[
    Path | None,
    typer.Option(
        "--recipe",
        help="TOML file, or the name of a recipe that comes with vila2; recipes/world.toml where it exists, "
        "else the defaults.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of the recipe; may be repeated."),
]
Shards = Annotated[
    list[str] | None,
    typer.Option(
        "--shards",
        help="Shards: tars, globs, {000..010} ranges, folders or layer folders, local or s3://, gs://, hf://, "
        "https://; or 'pipe:COMMAND'.",
    ),
]
Model = Annotated[str | None, typer.Option("--model", help="Checkpoint folder or hub id.")]


def local_folder(given: str | Path) -> Path:
    """The folder of an --out, or of its default.

    Raises RecipeError for a URL, as only local files can be renamed into place.
    """
    text = str(given)
    if looks_remote(text):
        raise RecipeError(
            f"--out {redacted(text)}: output is written to local files, where it can be renamed into place "
            "when it is whole; give a folder of this machine and copy it from there"
        )
    return local_path(text)


Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FOLDER", parser=local_folder, help="Where to write; the default is printed."
    ),
]
OutThere = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", parser=local_folder, help="Folder to write to.")
]
Base = Annotated[
    str | None, typer.Option("--base", help="Folder or URL where the base shards of a layer are now.")
]
Round = Annotated[
    str | None,
    typer.Option(
        "--round", metavar="N", help="Take what is not given from the run folder of the recipe, for round N."
    ),
]
WorkerText = Annotated[
    str | None,
    typer.Option(
        "--worker",
        metavar="I/N",
        help="Do every N-th shard from I on; as Slurm, torchrun, mpirun or SkyPilot count, else 0/1. "
        "auto/N in the pods of an indexed Kubernetes job.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", metavar="N", min=1, help="Try it on the first N samples, in a folder limit-N of their own."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print settings, inputs and outputs, and do nothing.")]


def spread(argv: list[str]) -> list[str]:
    """Repeat an option of `MANY` for each word after it: `--shards a b` to `--shards a --shards b`."""
    words: list[str] = []
    option = ""
    for position, word in enumerate(argv):
        if word == "--":
            return words + argv[position:]
        name, equals, value = word.partition("=")
        if name in MANY:
            option = name
            words += [option, value] if equals else []
            # With no word to follow, the bare option stays for the parser to complain about.
            alone = position + 1 == len(argv) or argv[position + 1].startswith("-")
            words += [option] if alone and not equals else []
        elif word.startswith("-") and word != "-":
            option = ""
            words.append(word)
        else:
            words += [option, word] if option else [word]
    return words
