"""`vila2 shards`: look into shards and layers, check them, join them for other tools."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vila2cli.cli.options import Base, Model, RecipeFile, Sets, local_folder
from vila2cli.cli.paths import default_out, open_recipe
from vila2cli.cli.terminal import json_output, say, say_coloured, show
from vila2cli.errors import DataError, RecipeError
from vila2cli.formats.registry import names
from vila2cli.settings.recipe import Recipe
from vila2cli.shards.places import looks_remote

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Specs = Annotated[
    list[str],
    typer.Argument(
        help="Tars, globs, {000..010} ranges, folders or layer folders, local or URLs; or 'pipe:COMMAND'.",
        show_default=False,
    ),
]
CAPTIONS = ("original", "recaption")
MAX_SHOWN_CHARS = 1000
"""Of one text, unless asked for in full."""


@app.callback()
def about() -> None:
    """Look into shards and layers, check or merge them."""


@app.command("check")
def check(
    shards: Specs,
    base: Base = None,
    fast: Annotated[bool, typer.Option("--fast", help="Decode no image, and compare no SHA-256.")] = False,
    num: Annotated[int, typer.Option("--num", help="Problems listed at most, 0 for all.")] = 20,
) -> None:
    """Read everything and list what is wrong; exits with 4 when anything is.

    \b
    vila2 shards check data/*.tar
    """
    from vila2cli.shards import open_source
    from vila2cli.stages import shards as stage

    report = stage.check(open_source(shards, base=base), decode=not fast, digests=not fast)
    show(report, report.lines(num or None))
    if report.problems:
        counts = ", ".join(f"{count} {kind}" for kind, count in report.counts.items())
        raise DataError(f"{len(report.problems)} problems: {counts}")


@app.command("stats")
def stats(shards: Specs, base: Base = None) -> None:
    """Count samples, words per caption and layer, image sizes and bytes.

    \b
    vila2 shards stats data/*.tar runs/world/round1/recaption
    """
    from vila2cli.shards import open_source
    from vila2cli.stages import shards as stage

    show(stage.stats(open_source(shards, base=base)))


@app.command("show")
def show_samples(
    shards: Specs,
    base: Base = None,
    num: Annotated[int, typer.Option("--num", "-n", min=1, help="Samples to print.")] = 3,
    start: Annotated[int, typer.Option("--start", min=0, help="Samples to pass over first.")] = 0,
    full: Annotated[bool, typer.Option("--full", help="Do not shorten long texts.")] = False,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Print them as training sees them: tokens, and which are trained.")
    ] = False,
    model: Model = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
) -> None:
    """Print samples with their captions and annotations, or as training sees them.

    \b
    vila2 shards show runs/world/round1/recaption -n 5
    vila2 shards show data/sft/*.tar --tokens --model ckpt/r2
    """
    if tokens:
        _show_tokens(shards, base, num, start, model, open_recipe(recipe, sets))
        return
    from vila2cli.shards import open_source
    from vila2cli.stages import shards as stage

    texts = stage.show(
        open_source(shards, base=base), num, start=start, max_chars=None if full else MAX_SHOWN_CHARS
    )
    show({"samples": texts}, "\n\n".join(texts).split("\n"), is_whole=True)


def _show_tokens(
    shards: list[str], base: str | None, num: int, start: int, model: str | None, settings: Recipe
) -> None:
    from vila2cli.shards import open_source
    from vila2cli.stages.tokens import chat_of, show_tokens

    source = open_source(shards, base=base)
    is_terminal = sys.stdout.isatty()
    texts = show_tokens(source, chat_of(settings, model), settings, num, start=start, colour=is_terminal)
    if not json_output.add({"samples": texts}):
        say_coloured("\n\n".join(texts))


@app.command("merge")
def merge(
    shards: Specs,
    base: Base = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            parser=local_folder,
            help="Folder for the merged shards; the default is printed.",
        ),
    ] = None,
    captions: Annotated[
        list[str] | None,
        typer.Option("--captions", help="Captions joined in this order: original, or a layer's name."),
    ] = None,
) -> None:
    """Write self-contained shards, image and joined text, for tools that know no layers.

    \b
    vila2 shards merge runs/world/round1/recaption --captions original recaption --out merged
    """
    from vila2cli.shards import open_source

    known = ["original", *(layer.name for layer in open_source(shards, base=base).layers)]
    if unknown := [name for name in captions or () if name not in known]:
        raise RecipeError(f"--captions {unknown[0]}: these shards have {', '.join(known)}")
    folder = out or default_out("merged", None, shards[0])
    _merge(shards, folder, tuple(captions or CAPTIONS), base)


def merge_layer(
    layer_dir: Path,
    captions: tuple[str, ...] = CAPTIONS,
    *,
    shards: Sequence[str] = (),
    base: str | None = None,
) -> None:
    """Merge a finished caption layer with its images into `LAYER-merged`.

    Of the `shards` it lies over the remote ones are named again: no layer makes a command run, or holds the
    signature of a URL.
    """
    specs: list[str | Path] = [layer_dir, *(spec for spec in shards if looks_remote(spec))]
    _merge(specs, layer_dir.with_name(f"{layer_dir.name}-merged"), captions, base)


def _merge(specs: Sequence[str | Path], folder: Path, captions: tuple[str, ...], base: str | None) -> None:
    from vila2cli.shards import open_source
    from vila2cli.stages.merge import merge as run_stage

    say(f"merge: writing {folder}")
    counts = run_stage(open_source(specs, base=base), folder, captions=captions)
    dropped = ", ".join(f"{num:,} {reason}" for reason, num in counts.dropped.items()) or "none"
    line = f"merge: done ({folder}), {counts.num_out:,} of {counts.num_in:,} samples; dropped: {dropped}"
    show({"stage": "merge", "out_dir": folder, **counts.to_json()}, [line])


@app.command("convert")
def convert(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help=f"{', '.join(names('shards convert'))}.")],
    inputs: Annotated[
        list[Path], typer.Argument(help="Annotation files or folders of them; for img2dataset its output.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", parser=local_folder, help="Folder for the shards.")
    ],
    images: Annotated[
        list[Path] | None, typer.Option("--images", help="Folders and tars that hold the images named.")
    ] = None,
    per_shard: Annotated[int, typer.Option("--per-shard", min=1, help="Samples of a shard at most.")] = 1000,
    max_images: Annotated[
        int, typer.Option("--max-images", min=1, help="Images of a web document at most.")
    ] = 6,
) -> None:
    """Write base shards from LLaVA, COCO, COYO, MMC4, OBELICS or img2dataset files.

    \b
    vila2 shards convert llava llava_v1_5_mix665k.json --images data/images --out data/sft
    vila2 shards convert coco captions_train2017.json --images train2017 --out data/coco
    """
    from vila2cli.stages.convert import convert as run_stage

    say(f"convert: writing {out}")
    counts = run_stage(form, inputs, out, images=images or (), per_shard=per_shard, max_images=max_images)
    dropped = ", ".join(f"{num:,} {reason}" for reason, num in counts.dropped.items()) or "none"
    line = f"convert: done ({out}), {counts.num_out:,} of {counts.num_in:,} items; rejected: {dropped}"
    show({"stage": "convert", "out_dir": out, **counts.to_json()}, [line])
    if counts.num_rejected:
        say(f"  each reject and why: {out / 'rejects.jsonl'}")
