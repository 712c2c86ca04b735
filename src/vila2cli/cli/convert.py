"""`vila2 shards convert`: shards of pictures or of other formats, or a layer of a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vila2cli.cli.options import OutThere
from vila2cli.cli.terminal import say, show
from vila2cli.errors import DataError, RecipeError
from vila2cli.formats.registry import find_format, names

Inputs = Annotated[
    list[Path],
    typer.Argument(
        help="Folders of pictures for folder, tars or folders of them for webdataset and img2dataset, else "
        "annotations or tables, or folders of them."
    ),
]
Captions = Annotated[
    list[Path] | None,
    typer.Option(
        "--captions",
        metavar="FILE",
        help="Table with the captions of folder: .csv, .tsv, .jsonl or .parquet; else PICTURE.txt beside a "
        "picture, or none.",
    ),
]
Images = Annotated[
    list[Path] | None,
    typer.Option("--images", help="Folders and tars that hold the images named; for csv its own folder."),
]
Picture = Annotated[
    str,
    typer.Option(
        "--picture", metavar="COLUMN", help="Column of paths or URLs of pictures; found by its name else."
    ),
]
Text = Annotated[
    str,
    typer.Option(
        "--text", metavar="COLUMN", help="Column, or field of KEY.json, of the caption; found by its name else."
    ),
]
Key = Annotated[
    str,
    typer.Option(
        "--key",
        metavar="name|number|COLUMN",
        help="What samples are called by: their picture's file name (the default of folder), a number (of "
        "all else) or a column. For layer the column of the key; found by its name else.",
    ),
]
LayerBase = Annotated[
    list[str] | None,
    typer.Option("--shards", "--base", help="Base shards that the captions of a layer are for."),
]
Match = Annotated[
    str,
    typer.Option("--match", help="What keys of a layer are compared with: key, or a field such as url."),
]


def convert(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help=f"{', '.join(names('shards convert'))}.")],
    inputs: Inputs,
    out: OutThere,
    captions: Captions = None,
    images: Images = None,
    picture: Picture = "",
    text: Text = "",
    key: Key = "",
    per_shard: Annotated[int, typer.Option("--per-shard", min=1, help="Samples of a shard at most.")] = 1000,
    max_images: Annotated[
        int, typer.Option("--max-images", min=1, help="Images of a web document at most.")
    ] = 6,
    shards: LayerBase = None,
    layer: Annotated[str, typer.Option("--layer", help="Name of the caption layer.")] = "recaption",
    match: Match = "key",
) -> None:
    """Make shards of pictures or other formats, or a layer of a table.

    A sample's JSON names the file of its picture, and the file and row that it is from.

    \b
    vila2 shards convert folder photos --captions alt.csv --out data
    vila2 shards convert csv pairs.tsv --images downloaded --out data
    vila2 shards convert coco captions_train2017.json --images train2017 --out data
    vila2 shards convert layer captions.parquet --shards data --out their-captions
    """
    find_format("shards convert", form)
    if missing := next((path for path in (*inputs, *(captions or ())) if not path.exists()), None):
        raise DataError(f"{missing} does not exist")
    say(f"convert: writing {out}")
    if form == "layer":
        _import_layer(inputs, shards, out, layer=layer, key=key, text=text, match=match)
        return
    from vila2cli.stages.convert import convert as run_stage

    counts = run_stage(
        form,
        inputs,
        out,
        images=images or (),
        per_shard=per_shard,
        max_images=max_images,
        text=text,
        picture=picture,
        captions=captions or (),
        key=key,
    )
    show(counts)
    if counts.num_rejected:
        say(f"  each reject and why: {out / 'rejects.jsonl'}")


def _import_layer(inputs: Sequence[Path], shards: Sequence[str] | None, out: Path, **how: str) -> None:
    from vila2cli.shards import open_source
    from vila2cli.stages.import_layer import import_layer

    if not shards:
        raise RecipeError("convert layer writes a layer over shards: name those with --shards")
    show(import_layer(inputs, open_source(shards), out, **how))
