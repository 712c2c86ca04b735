"""How fast a projector is trained on photographs, beside the same steps on pictures made ready before.

Photographs of 500 to 1,100 pixels a side, no two of a size (photos.py says how they are made), each with
one question and answer; a model of random weights (40M parameters; 8M with --size tiny) with a tower of 364
pixels, of which the projector alone is trained, the tower's features not kept. Rows, in turn, each a process
of its own:
  ours          `vila2 sft` as it is
  prepared      the same steps with all pictures in memory, made ready before the first
  earlier       `vila2 sft` of an earlier build, whose folder `src` is given with --earlier
Seconds are those of the steps, as the checkpoint says. On a CPU pictures are made ready on the cores that
train, so that a small model's steps cannot take what they take on prepared ones.

    python benchmarks/photo_training.py --photos ../shared/data --earlier ../old/src
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import running
from photos import photos
from recaption_model import SIZES, build_model
from running import REPO, machine, read_json, write_results

LEAST = {"ours / earlier": 2.0, "ours / prepared": 0.95}
"""What the first row's pictures per second should be of the second's: one of the two."""


def write_shards(folder: Path, data: list[bytes]) -> None:
    from vila2cli.shards.tarwriter import TarWriter  # which an earlier build may not have

    folder.mkdir(parents=True)
    turns = [
        {"role": "user", "content": "<image>What is this?"},
        {"role": "assistant", "content": "A picture."},
    ]
    with TarWriter(folder / "00000.tar") as tar:
        for number, one in enumerate(data):
            tar.write_sample(f"{number:06}", {"jpg": one, "json": json.dumps({"messages": turns}).encode()})


def train(out: Path, options: argparse.Namespace) -> None:
    """One training, in this process."""
    from vila2cli.cli.app import main

    (out.parent / "empty.toml").write_text('name = "photos"\n')
    words = ["sft", "--model", options.work / "model", "--shards", options.work / "data", "--out", out]
    words += ["--recipe", out.parent / "empty.toml"]
    sets = (
        'sft.train=["projector"]',
        "sft.epochs=1",
        f"sft.batch_size={options.batch_size}",
        f"sft.micro_batch_size={options.batch_size}",
        "sft.text_share=0",
    )
    if code := main([*map(str, words), *running.set_options(sets)]):
        sys.exit(code)


def prepare_before(options: argparse.Namespace) -> None:
    """Have every picture made ready now, and training take what is there."""
    from vila2cli.model.chat import Chat
    from vila2cli.model.loading import load_processor
    from vila2cli.model.ready import Preparer
    from vila2cli.shards import open_source, read_shard
    from vila2cli.train.data import TrainSample
    from vila2cli.train.pictures import Showing

    preparer = Preparer(Chat(load_processor(options.work / "model")), most_bytes=sys.maxsize)
    known = {}
    for shard in open_source([str(options.work / "data")]).shards:
        for sample in read_shard(shard, on_reject=lambda reject: None):
            known.update({one.data: one for one in sample.images})
    from vila2cli.files import DEFAULT_DRAFT, DEFAULT_MAX_PIXELS

    how = {"max_pixels": DEFAULT_MAX_PIXELS, "draft": DEFAULT_DRAFT}
    made = {data: preparer(data, **how) for data in known}

    def of(self: Showing, sample: TrainSample) -> list[Any]:
        return [made[image.data] for image in sample.images]

    Showing._of = of  # type: ignore[method-assign]


def measure(name: str, options: argparse.Namespace) -> float:
    """Seconds of a row's steps, in a process of its own but with --quick."""
    out = options.work / f"out-{name}"
    shutil.rmtree(out, ignore_errors=True)
    if running.is_quick():
        train(out, options)
    else:
        src = options.earlier if name == "earlier" else REPO / "src"
        words = [sys.executable, __file__, "--child", name, "--work", options.work]
        words += ["--batch-size", options.batch_size]
        environment = {**os.environ, "PYTHONPATH": str(Path(src).resolve())}
        with (options.work / "log").open("ab") as log:
            subprocess.run([*map(str, words)], env=environment, check=True, stdout=log, stderr=log)
    return float(sum(phase["seconds"] for phase in read_json(out / "vila2.json")["phases"]))


def ratios_of(seconds: dict[str, list[float]]) -> dict[str, Any]:
    found = {}
    for pair, least in LEAST.items():
        one, _, other = pair.partition(" / ")
        if other in seconds:
            turns = sorted(b / a for a, b in zip(seconds[one], seconds[other], strict=True))
            found[pair] = {
                "ratio": round(median(turns), 3),
                "turns": [round(x, 3) for x in turns],
                "least": least,
            }
    return found


def main() -> None:
    parser = running.parser_of(__doc__, "photo_training")
    data = os.environ.get("VILA2_TEST_DATA")
    parser.add_argument("--photos", type=Path, default=Path(data) if data else None, help="folder of JPEGs")
    parser.add_argument("--earlier", type=Path, help="folder src of an earlier build")
    parser.add_argument("--size", choices=SIZES, default="small", help="random model to build")
    parser.add_argument("--num-photos", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", type=int, default=364, help="of the tower")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-photo-training"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = running.parse(parser, size="tiny", num_photos=4, batch_size=2, repeats=1, side=28)
    if options.child:
        if options.child == "prepared":
            prepare_before(options)
        train(options.work / f"out-{options.child}", options)
        return
    options.work /= options.size
    size = SIZES[options.size]
    vision = {**size.vision, "image_size": options.side, "patch_size": 14}
    build_model(replace(size, vision=vision), options.work / "model")
    shutil.rmtree(options.work / "data", ignore_errors=True)
    write_shards(options.work / "data", photos(options.num_photos, options.photos))
    rows = ["ours"] if running.is_quick() else ["ours", "prepared"]
    rows += ["earlier"] if options.earlier else []
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(options.repeats):
        for name in rows:
            seconds[name].append(measure(name, options))
        print(
            f"{turn + 1}/{options.repeats}: " + ", ".join(f"{n} {s[-1]:.2f} s" for n, s in seconds.items()),
            flush=True,
        )
    table = {
        name: {
            "pictures_per_s": round(options.num_photos / median(taken), 2),
            "seconds": [round(s, 3) for s in taken],
        }
        for name, taken in seconds.items()
    }
    about = {"machine": machine(), "size": options.size, "num_photos": options.num_photos}
    about |= {"batch_size": options.batch_size, "side": options.side}
    write_results(options.out, {**about, "rows": table, "ratios": ratios_of(seconds)}, options.work)
    for pair, found in ratios_of(seconds).items():
        print(f"{pair:18}{found['ratio']:8.2f}   (at least {found['least']}, of one of these)")


if __name__ == "__main__":
    main()
