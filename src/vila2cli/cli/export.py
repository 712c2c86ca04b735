"""`vila2 shards export`: captions, with or without pictures, as files of other tools."""

from pathlib import Path
from typing import Annotated

import typer

from vila2cli.cli.options import Base, Out, RecipeFile, Sets
from vila2cli.cli.paths import default_out, open_recipe
from vila2cli.cli.shards import Specs, write_merged
from vila2cli.cli.terminal import say, show
from vila2cli.errors import RecipeError
from vila2cli.formats.registry import names

Captions = Annotated[
    list[str] | None,
    typer.Option("--captions", help="Captions: original, or a layer's name; by default all, or the newest."),
]
Push = Annotated[
    str | None,
    typer.Option(
        "--push", metavar="hf://datasets/ORG/NAME", help="Upload it, with a card; the token is in HF_TOKEN."
    ),
]


def export(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help=f"{', '.join(names('shards export'))}.")],
    shards: Specs,
    base: Base = None,
    out: Out = None,
    captions: Captions = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="With the pictures; webdataset always has them.")
    ] = False,
    question: Annotated[
        str, typer.Option("--question", help="What a caption answers in a conversation of llava.")
    ] = "",
    push: Push = None,
    public: Annotated[bool, typer.Option("--public", help="Make a repository that is new public.")] = False,
    license: Annotated[str, typer.Option("--license", help="The licence that the card states.")] = "unknown",
    recipe: RecipeFile = None,
    sets: Sets = None,
) -> None:
    """Write captions, with or without pictures, for other tools.

    \b
    vila2 shards export parquet recap --out captions.parquet
    vila2 shards export parquet runs/world/round1/recaption --pictures --push hf://datasets/me/captions
    vila2 shards export vila runs/world/round1/recaption --out recaptions
    """
    from vila2cli.formats.registry import find_format
    from vila2cli.shards import open_source
    from vila2cli.shards.contents import contents_of
    from vila2cli.stages import export as stage
    from vila2cli.stages import publish

    find_format("shards export", form)
    repository = None if push is None else publish.check_repository(push)
    settings, source = open_recipe(recipe, sets), open_source(shards, base=base)
    folder = out or default_out(f"export-{form}", None, shards[0])
    is_file = _is_file(form, folder)
    if is_file and repository is not None:
        raise RecipeError(f"--push uploads a folder, with a card in it: name one with --out, not {folder}")
    if form == "webdataset":
        held = contents_of(source)
        held.check(captions or (), held.layers)
        write_merged(shards, folder, tuple(captions or held.layers), base)
    else:
        say(f"export: writing {folder}")
        run_stage = stage.export_file if is_file else stage.export
        show(
            run_stage(form, source, folder, captions=captions or (), with_pictures=pictures, question=question)
        )
    if not is_file:
        publish.write_card(folder, form, source, settings, license=license)
    if repository is not None:
        say(f"pushed: {publish.push(folder, repository, is_public=public)}")


def _is_file(form: str, out: Path) -> bool:
    """Whether rows go into one file; raises RecipeError for the name of one that the format does not write."""
    if out.is_dir():
        return False
    if form in ("parquet", "jsonl") and out.suffix == f".{form}":
        return True
    if out.suffix in (".csv", ".tsv", ".json", ".jsonl", ".parquet") and not out.exists():
        raise RecipeError(f"--out {out}: {form} writes no {out.suffix} file; name a folder")
    return False
