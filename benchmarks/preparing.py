"""How fast photographs become what a model takes, beside what Pillow alone can do and beside an earlier build.

Photographs of 500 to 1,100 pixels a side, no two of a size (photos.py says how they are made), for a processor
as `vila2 pretrain` builds it, with a tower of 364 pixels. Rows, each in a process of its own on as many cores
as it has workers, in turn and several times over; figures are medians, ratios those of the pairs of each turn:
  pillow-N      Pillow and NumPy by hand: decode (draft to N times the tower's side), one resize, normalise
  processor     the image processor of transformers alone, on decoded images in memory
  ours-N        decode, prompt ids and tensors as the engines have them made, with N workers
  draft-0       the same with data.draft = 0, so that JPEGs are decoded whole, one worker
  draft-1       the same with data.draft = 1, so that they are decoded at half of it or less, one worker
  earlier       what an earlier build did, one worker; its folder `src` is given with --earlier
What drafting changes is told in levels of 255 between the tensors of drafted images and of whole ones.

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
MUST = {
    "ours-1 / earlier": 5.0,
    "draft-1 / earlier": 5.0,
    "ours-1 / pillow-2": 0.9,
    "draft-1 / pillow-1": 0.9,
    "ours-2 / ours-1": 1.8,
}
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


Taken = tuple[float, float]
"""Seconds that passed, and seconds of the processor, all threads together."""


class Watch:
    """Times what is done from when it is made."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def read(self) -> Taken:
        return time.perf_counter() - self._start[0], time.process_time() - self._start[1]


def pillow(data: Sequence[bytes], side: int, draft: float) -> Taken:
    """By hand."""
    import numpy as np
    import torch

    watch = Watch()
    for one in data:
        image: Image.Image = Image.open(io.BytesIO(one))
        image.draft("RGB", (round(draft * side), round(draft * side)))
        image = image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        levels = np.asarray(image, dtype=np.float32)
        levels *= 1 / 127.5
        levels -= 1
        torch.from_numpy(np.ascontiguousarray(levels.transpose(2, 0, 1)))
    return watch.read()


def processor(data: Sequence[bytes], chat: Any) -> Taken:
    """The image processor alone."""
    images = [Image.open(io.BytesIO(one)).convert("RGB") for one in data]
    watch = Watch()
    for image in images:
        chat.processor.image_processor(images=[[image]], return_tensors="pt")
    return watch.read()


def feed() -> Any:
    """The module that makes things ahead, in this build or an earlier one."""
    try:
        from vila2cli.run import feed as found
    except ImportError:
        from vila2cli.ask import feed as found  # type: ignore[attr-defined,no-redef]
    return found


def ready(data: Sequence[bytes], chat: Any, num_workers: int, draft: float | None) -> Taken:
    """This package, by what an earlier build knows too."""
    ahead = feed().ahead
    from vila2cli.image import decode_image
    from vila2cli.shards.sample import Turn

    turns = (Turn("user", TURNS_TEXT),)
    how: dict[str, Any] = {} if draft is None else {"made": chat.made, "draft": draft}

    def make(one: bytes) -> tuple[Image.Image, Any]:
        image = decode_image(one, **how)
        return image, chat.pixel_inputs([[image]])

    watch = Watch()
    for _, future in ahead(make, data, num_workers=num_workers, window=2 * num_workers):
        image, _ = future.result()
        chat.prompt_ids(turns, [image])
    return watch.read()


def child(name: str, folder: Path) -> None:
    """Answer every line with the seconds of a row."""
    import torch

    kind, _, number = name.partition("-")
    num_workers = int(number) if kind == "ours" else 1
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
            taken = pillow(data, job["side"], float(number))
        elif kind == "processor":
            taken = processor(data, chat)
        else:
            drafts = {"ours": job["draft"], "draft": float(number or 0), "earlier": None}
            taken = ready(data, chat, num_workers, drafts[kind])
        print(json.dumps(taken), flush=True)


@contextlib.contextmanager
def opened(name: str, folder: Path, src: Path | None) -> Iterator[Callable[[], Taken]]:
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

        def ask() -> Taken:
            print("go", file=process.stdin, flush=True)
            passed_s, processor_s = json.loads(process.stdout.readline())  # type: ignore[union-attr]
            return passed_s, processor_s

        yield ask
        process.stdin.close()


def differences(data: Sequence[bytes], chat: Any, draft: float) -> dict[str, float]:
    """How far the tensors of drafted images are from those of whole ones, in levels of 255."""
    from vila2cli.image import decode_image

    scale = 255 * chat.processor.image_processor.image_std[0]
    num_drafted, means, largest = 0, [], 0.0
    for one in data:
        whole, small = decode_image(one), decode_image(one, draft=draft, made=chat.made)
        num_drafted += whole.size != small.size
        theirs, ours = (chat.pixel_inputs([[image]])["pixel_values"] for image in (whole, small))
        apart = (ours - theirs).abs() * scale
        means.append(float(apart.mean()))
        largest = max(largest, float(apart.max()))
    mean = round(sum(means) / max(1, len(means)), 4)
    return {"num_drafted": num_drafted, "mean": mean, "largest": round(largest, 1)}


def measure(rows: dict[str, Path | None], folder: Path, repeats: int) -> dict[str, list[Taken]]:
    """What every row took in every turn."""
    taken: dict[str, list[Taken]] = {name: [] for name in rows}
    with contextlib.ExitStack() as stack:
        asks = {name: stack.enter_context(opened(name, folder, src)) for name, src in rows.items()}
        for turn in range(repeats):
            for name, ask in asks.items():
                taken[name].append(ask())
            said = ", ".join(f"{name} {values[-1][0]:.2f} s" for name, values in taken.items())
            print(f"{turn + 1}/{repeats}: {said}", flush=True)
    return taken


def ratios_of(taken: dict[str, list[Taken]]) -> dict[str, Any]:
    """Pictures per second of one row over another's, of time that passed and of the processor's."""
    found = {}
    for name, least in MUST.items():
        ours, _, other = name.partition(" / ")
        if ours in taken and other in taken:
            pairs = [*zip(taken[ours], taken[other], strict=True)]
            passed, by_processor = (median(b[i] / a[i] for a, b in pairs) for i in (0, 1))
            found[name] = {"ratio": round(passed, 3), "of_processor": round(by_processor, 3), "least": least}
    return found


def row(values: list[Taken], num_photos: int) -> dict[str, Any]:
    passed, by_processor = (1000 * median(one[i] for one in values) / num_photos for i in (0, 1))
    return {
        "pictures_per_s": round(1000 / passed, 2),
        "ms": round(passed, 2),
        "processor_ms": round(by_processor, 2),
        "seconds": [round(value, 4) for value, _ in values],
    }


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
    options = running.parse(parser, num_photos=3, repeats=1, side=28, workers=[1])
    if options.child:
        child(options.child, options.work)
        return
    from vila2cli.files import DEFAULT_DRAFT

    run(options, DEFAULT_DRAFT)


def run(options: argparse.Namespace, draft: float) -> None:
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
    others = ("pillow-2", "pillow-1", "processor", "draft-0", "draft-1")
    rows |= dict.fromkeys(others[:1] if running.is_quick() else others)
    rows |= {f"ours-{number}": None for number in options.workers}
    large = photos(max(1, len(data) // 5), options.photos, least=1500, most=3000)
    chat = open_chat(folder / "model")()
    taken = measure(rows, folder, options.repeats)
    results: dict[str, Any] = {
        "machine": machine(),
        "num_photos": len(data),
        "side": options.side,
        "draft": draft,
        "rows": {name: row(values, len(data)) for name, values in taken.items()},
        "ratios": ratios_of(taken),
        "drafted": {
            f"{factor:g} times, photos of {name}": differences(several, chat, factor)
            for name, several in {"500 to 1,100": data, "1,500 to 3,000": large}.items()
            for factor in (2.0, 1.0)
        },
    }
    write_results(options.out, results, folder)
    for name, found in results["rows"].items():
        print(f"{name:12}{found['ms']:8.1f} ms{found['pictures_per_s']:10.1f} pictures/s")
    for name, found in results["ratios"].items():
        said = f"{found['ratio']:8.2f}, of the processor's time {found['of_processor']:.2f}"
        print(f"{name:20}{said}   (at least {found['least']})")


if __name__ == "__main__":
    main()
