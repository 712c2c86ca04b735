"""`vila2 shards build`: a specialist's training shards from public annotations."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vila2cli.cli.options import OutThere
from vila2cli.cli.terminal import say, show
from vila2cli.formats.registry import names

Length = StrEnum("Length", ["any", "short", "long"])
Specialist = StrEnum("Specialist", ["spatial", "grounding", "ocr"])
DepthFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Depth maps for spatial, named like the pictures: 16-bit PNG in millimetres, .npy in metres.",
    ),
]
DepthUnit = Annotated[
    float | None,
    typer.Option(min=1e-9, metavar="METRES", help="Metres that 1 in a depth map is; larger is farther."),
]


def build(
    specialist: Annotated[Specialist, typer.Argument(help="Whose data to build.", show_default=False)],
    annotations: Annotated[
        list[Path],
        typer.Option(help="Annotation files; for coco also those of its captions. Shards for grit."),
    ],
    format: Annotated[str, typer.Option(help=f"{', '.join(names('shards build'))} (JSON lines of boxes).")],
    out: OutThere,
    images: Annotated[
        Path | None, typer.Option(help="Folder that the pictures are in, subfolders included.")
    ] = None,
    length: Annotated[Length, typer.Option(help="Captions taken for grounding, by their length.")] = Length[
        "any"
    ],
    describe: Annotated[
        bool, typer.Option("--describe", help="Begin with an answer to the specialist's generation prompt.")
    ] = False,
    max_questions: Annotated[int, typer.Option(min=1, help="Questions asked of one picture at most.")] = 8,
    split: Annotated[
        str, typer.Option(help="Split whose pictures are used, where the annotations tell: refcoco.")
    ] = "train",
    seed: Annotated[int, typer.Option(min=0, help="Seed of what is asked and how.")] = 0,
    draw: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also draw pictures with their boxes here.")
    ] = None,
    depth: DepthFolder = None,
    depth_unit: DepthUnit = None,
    num_drawn: Annotated[int, typer.Option(min=1, help="Pictures drawn at most.")] = 20,
) -> None:
    """Build a specialist's training shards from public annotations.

    \b
    vila2 shards build spatial --format coco --annotations instances_val2017.json --images val2017 \\
      --out data/spatial --draw drawn
    """
    from vila2cli.formats.specialists.pictures import BuildSettings
    from vila2cli.stages.build import build as run_stage

    say(f"build {specialist}: writing {out}")
    settings = BuildSettings(
        length=length, describe=describe, max_questions=max_questions, split=split, seed=seed
    )
    summary = run_stage(
        specialist,
        format=format,
        annotations=annotations,
        images=images,
        out=out,
        settings=settings,
        draw=draw,
        num_drawn=num_drawn,
        depth=depth,
        depth_unit=depth_unit,
    )
    say(f"build {specialist}: done ({out})")
    show(summary, [f"  {line}" for line in summary.lines()])
    if summary.dropped or summary.malformed:
        say(f"  what was left out, and why: {out}/rejects.jsonl")
