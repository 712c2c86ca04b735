"""`vila2 shards build`: a specialist's training shards from public annotations."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vila2cli.cli.options import local_folder
from vila2cli.cli.terminal import say, show

Length = StrEnum("Length", ["any", "short", "long"])
Specialist = StrEnum("Specialist", ["spatial", "grounding", "ocr"])


Whose = Annotated[Specialist, typer.Argument(help="Whose data to build.", show_default=False)]
AnnotationFiles = Annotated[
    list[Path],
    typer.Option(
        "--annotations", help="Annotation files; for coco also those of its captions. Shards for grit."
    ),
]
FormatName = Annotated[
    str,
    typer.Option(
        "--format",
        help="coco, refcoco, visual-genome, grit, nlvr, textocr, docvqa, or lines for JSON lines of boxes.",
    ),
]
OutFolder = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", parser=local_folder, help="Where the shards are written.")
]
ImageFolder = Annotated[
    Path | None, typer.Option("--images", help="Folder that the pictures are in, subfolders included.")
]
Lengths = Annotated[Length, typer.Option("--length", help="Captions taken for grounding, by their length.")]
Describe = Annotated[
    bool, typer.Option("--describe", help="Begin with an answer to the specialist's generation prompt.")
]
MaxQuestions = Annotated[
    int, typer.Option("--max-questions", min=1, help="Questions asked of one picture at most.")
]
Split = Annotated[
    str, typer.Option("--split", help="Split whose pictures are used, where the annotations tell: refcoco.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of what is asked and how.")]
DrawFolder = Annotated[
    Path | None, typer.Option("--draw", metavar="FOLDER", help="Also draw pictures with their boxes here.")
]
DepthFolder = Annotated[
    Path | None,
    typer.Option(
        "--depth",
        metavar="FOLDER",
        help="Depth maps for spatial, named like the pictures: 16-bit PNG in millimetres, .npy in metres.",
    ),
]
DepthUnit = Annotated[
    float | None,
    typer.Option(
        "--depth-unit",
        min=1e-9,
        metavar="METRES",
        help="Metres that 1 in a depth map is; larger is farther.",
    ),
]
NumDrawn = Annotated[int, typer.Option("--num-drawn", min=1, help="Pictures drawn at most.")]


def build(
    specialist: Whose,
    annotations: AnnotationFiles,
    format: FormatName,
    out: OutFolder,
    images: ImageFolder = None,
    length: Lengths = Length["any"],
    describe: Describe = False,
    max_questions: MaxQuestions = 8,
    split: Split = "train",
    seed: Seed = 0,
    draw: DrawFolder = None,
    depth: DepthFolder = None,
    depth_unit: DepthUnit = None,
    num_drawn: NumDrawn = 20,
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
