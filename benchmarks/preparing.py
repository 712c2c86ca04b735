"""How fast photographs become what a model takes, beside what Pillow alone can do and beside an earlier build.

Photographs of 500 to 1,100 pixels a side, no two of a size (photos.py says how they are made), for a processor
as `vila2 pretrain` builds it, with a tower of 364 pixels. Rows, each in a process of its own on as many cores
as it has workers, in turn and several times over; figures are medians, ratios those of the pairs of each turn:
  pillow        Pillow and NumPy by hand: decode (draft as here), one resize, normalise; nothing is checked
  processor     the image processor of transformers alone, on decoded images in memory
  ours-N        decode, prompt ids and tensors as the engines have them made, with N workers
  undrafted     the same with data.draft = false, one worker
  earlier       what an earlier build did, one worker; its folder `src` is given with --earlier
What drafting changes is told in levels of 255 between the tensors of drafted and undrafted pictures.

    python benchmarks/preparing.py --photos ../shared/data --earlier ../old/src
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import running
from photos import photos
from PIL import Image
from recaption_model import SIZES, build_model
from running import machine, write_results

TURNS_TEXT = "Describe the image."
MUST = {"ours-1 / earlier": 5.0, "ours-1 / pillow": 0.9, "ours-2 / ours-1": 1.8}
"""What the first row of each should be of the second at least."""


def open_chat(model: Path) -> Callable[[], Any]:
    """A function that makes a chat which knows no sizes yet."""
    from transformers import AutoProcessor

    from vila2cli.model.chat import Chat
    from vila2cli.shards.sample import Turn

    processor = AutoProcessor.from_pretrained(model)

    def fresh() -> Any:
        chat = Chat(processor)
        chat.prompt_ids((Turn("user", TURNS_TEXT),), [Image.new("RGB", (9, 9))])  # its check is not measured
        return chat

    return fresh


def pillow(data: Sequence[bytes], side: int, draft: int) -> float:
    """Seconds by hand."""
    import numpy as np
    import torch

    start_s = time.perf_counter()
    for one in data:
        image: Image.Image = Image.open(io.BytesIO(one))
        image.draft("RGB", (draft * side, draft * side))
        image = image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        levels = np.asarray(image, dtype=np.float32)
        levels *= 1 / 127.5
        levels -= 1
        torch.from_numpy(np.ascontiguousarray(levels.transpose(2, 0, 1)))
    return time.perf_counter() - start_s


def processor(data: Sequence[bytes], chat: Any) -> float:
    """Seconds of the image processor alone."""
    images = [Image.open(io.BytesIO(one)).convert("RGB") for one in data]
    start_s = time.perf_counter()
    for image in images:
        chat.processor.image_processor(images=[[image]], return_tensors="pt")
    return time.perf_counter() - start_s


def feed() -> Any:
    """The module that makes things ahead, in this build or an earlier one."""
    try:
        from vila2cli.run import feed as found
    except ImportError:
        from vila2cli.ask import feed as found  # type: ignore[attr-defined,no-redef]
    return found


def ready(data: Sequence[bytes], chat: Any, num_workers: int, draft: bool) -> float:
    """Seconds of this package, with what it knows of an earlier build too."""
    ahead = feed().ahead

    from vila2cli.image import decode_image
    from vila2cli.shards.sample import Turn

    turns = (Turn("user", TURNS_TEXT),)
    how = {"made": chat.made} if draft and hasattr(chat, "made") else {}

    def make(one: bytes) -> tuple[Image.Image, Any]:
        image = decode_image(one, **how)
        return image, chat.pixel_inputs([[image]])

    start_s = time.perf_counter()
    for _, future in ahead(make, data, num_workers=num_workers, window=32):
        image, _ = future.result()
        chat.prompt_ids(turns, [image])
    return time.perf_counter() - start_s


def child(name: str, folder: Path) -> None:
    """Answer every line with the seconds of a row."""
    import torch

    kind, _, number = name.partition("-")
    num_workers = int(number or 1)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_workers])
    torch.set_num_threads(1)
    job = json.loads((folder / "job.json").read_text())
    data = [path.read_bytes() for path in sorted((folder / "photos").iterdir())]
    fresh = open_chat(folder / "model")
    fresh()
    print("ready", flush=True)
    for _ in sys.stdin:
        chat = fresh()
        if kind == "pillow":
            seconds = pillow(data, job["side"], job["draft"])
        elif kind == "processor":
            seconds = processor(data, chat)
        else:
            seconds = ready(data, chat, num_workers, draft=kind == "ours")
        print(json.dumps(seconds), flush=True)


@contextlib.contextmanager
def opened(name: str, folder: Path, src: Path | None) -> Iterator[Callable[[], float]]:
    """A row's process, asked for its seconds by calling what comes."""
    command = [sys.executable, __file__, "--child", name, "--work", str(folder)]
    environment = {**os.environ, **({"PYTHONPATH": str(src.resolve())} if src else {}), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            sys.exit(f"the row {name} cannot be run")

        def ask() -> float:
            print("go", file=process.stdin, flush=True)
            return float(process.stdout.readline())  # type: ignore[union-attr]

        yield ask
        process.stdin.close()


def differences(data: Sequence[bytes], chat: Any) -> dict[str, float]:
    """How far the tensors of drafted pictures are from those of whole ones, in levels of 255."""
    from vila2cli.image import decode_image

    scale = 255 * chat.processor.image_processor.image_std[0]
    means, largest, num_drafted = [], 0.0, 0
    for one in data:
        whole, small = decode_image(one), decode_image(one, made=chat.made)
        num_drafted += whole.size != small.size
        theirs, ours = (chat.pixel_inputs([[image]])["pixel_values"] for image in (whole, small))
        apart = (ours - theirs).abs() * scale
        means.append(float(apart.mean()))
        largest = max(largest, float(apart.max()))
    return {"share_drafted": num_drafted / len(data), "mean": sum(means) / len(means), "largest": largest}


def measure(rows: dict[str, Path | None], folder: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds of every row and turn."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    with contextlib.ExitStack() as stack:
        asks = {name: stack.enter_context(opened(name, folder, src)) for name, src in rows.items()}
        for turn in range(repeats):
            for name, ask in asks.items():
                seconds[name].append(ask())
            said = ", ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds.items())
            print(f"{turn + 1}/{repeats}: {said}", flush=True)
    return seconds


def main() -> None:
    parser = running.parser_of(__doc__, "preparing")
    data = os.environ.get("VILA2_TEST_DATA")
    parser.add_argument("--photos", type=Path, default=Path(data) if data else None, help="folder of JPEGs")
    parser.add_argument("--earlier", type=Path, help="folder src of an earlier build")
    parser.add_argument("--num-photos", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--side", type=int, default=364, help="of the tower")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-preparing"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = running.parse(parser, num_photos=3, repeats=1, side=28)
    if options.child:
        child(options.child, options.work)
        return
    from vila2cli.files import DEFAULT_DRAFT

    run(options, DEFAULT_DRAFT)


def run(options: argparse.Namespace, draft: int) -> None:
    from dataclasses import replace

    folder = options.work
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    data = photos(options.num_photos, options.photos)
    for number, one in enumerate(data):
        (folder / "photos" / f"{number:05}.jpg").write_bytes(one)
    tiny = SIZES["tiny"]
    build_model(
        replace(tiny, vision={**tiny.vision, "image_size": options.side, "patch_size": 14}), folder / "model"
    )
    (folder / "job.json").write_text(json.dumps({"side": options.side, "draft": draft}))
    rows: dict[str, Path | None] = {"earlier": options.earlier} if options.earlier else {}
    rows |= {"pillow": None, "processor": None, "undrafted": None}
    rows |= {f"ours-{number}": None for number in options.workers}
    seconds = measure(rows, folder, options.repeats)
    ratios = {}
    for name, least in MUST.items():
        ours, _, other = name.partition(" / ")
        if ours in rows and other in rows:
            pairs = [b / a for a, b in zip(seconds[ours], seconds[other], strict=True)]
            ratios[name] = {"ratio": round(median(pairs), 3), "least": least}
    results = {
        "machine": machine(),
        "num_photos": len(data),
        "side": options.side,
        "draft": draft,
        "rows": {
            name: {
                "pictures_per_s": round(len(data) / median(values), 2),
                "ms": round(1000 * median(values) / len(data), 2),
                "seconds": [round(value, 4) for value in values],
            }
            for name, values in seconds.items()
        },
        "ratios": ratios,
        "drafted": differences(data, open_chat(folder / "model")()),
    }
    write_results(options.out, results, folder)
    for name, found in results["rows"].items():
        print(f"{name:12}{found['ms']:8.1f} ms{found['pictures_per_s']:10.1f} pictures/s")
    for name, found in ratios.items():
        print(f"{name:20}{found['ratio']:8.2f}   (at least {found['least']})")


if __name__ == "__main__":
    main()
