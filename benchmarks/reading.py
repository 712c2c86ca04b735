"""What reading costs: samples with decoded images, against bare tarfile and Pillow on the same shards.

For each image size, in turn and many times over, so that whatever else the machine does hits all alike:
  bare    tarfile reads every member, Pillow decodes the images to RGB; nothing is checked
  vila2   read_shard and decode_image: keys, duplicates, UTF-8 and JSON checked, EXIF turned upright
  noted   the same with the SHA-256 of the file taken along, as a stage that writes a layer reads
  layer   the same as vila2 through a caption layer, whose annotations are parsed and checked by image SHA-256
  layers  through three layers, one over the other
Time is that of the processor (user and system), one thread. The shards lie in the page cache, where
reading weighs most, and the allocator keeps what is freed: else page faults for the pixels decide.
Must hold for photographs of 256 pixels and more: vila2 at 0.9 of bare or better, a layer below 5% of it.

    python benchmarks/reading.py
    python benchmarks/reading.py --sides 512 --repeats 3
"""

import hashlib
import io
import json
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import running
from PIL import Image, ImageFilter
from running import machine, write_results

from vila2cli.image import decode_image
from vila2cli.shards import Source, TarWriter, open_layer, open_source, read_shard
from vila2cli.shards.sample import Annotation

CAPTION = "A dog with brown fur lies on a wooden floor beside a green door, and looks at the camera. " * 5
IMAGE_NAMES = (".jpg",)
KEEP_FREED = {"MALLOC_TRIM_THRESHOLD_": str(1 << 28), "MALLOC_MMAP_THRESHOLD_": str(1 << 28)}
"""For glibc, which reads them at the start of a process."""


def photograph(side: int, number: int) -> bytes:
    """Smooth areas with some grain, about as many bytes per pixel as a web photograph."""
    base = Image.effect_noise((side // 8, side // 8), 90 + number % 30).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    grain = Image.effect_noise((side, side), 24).filter(ImageFilter.GaussianBlur(0.6))
    image = Image.merge("RGB", (base, Image.blend(base, grain, 0.3), Image.blend(base, grain, 0.5)))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88)
    return stream.getvalue()


def metadata(key: str, side: int) -> bytes:
    """KEY.json as img2dataset writes it."""
    value = {"url": f"https://example.org/images/{key}.jpg", "caption": CAPTION[:120], "key": key}
    size = {"width": side, "height": side, "original_width": 2 * side, "original_height": 2 * side}
    more = {
        "status": "success",
        "error_message": None,
        "exif": "{}",
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
    }
    return json.dumps(value | size | more).encode()


def make_shards(folder: Path, side: int, *, num_shards: int, num_samples: int) -> None:
    images = [photograph(side, number) for number in range(min(32, num_samples))]
    for shard in range(num_shards):
        with TarWriter(folder / f"{shard:05}.tar") as tar:
            for index in range(num_samples):
                key = f"{shard:05}{index:04}"
                # Bytes after the image's end make every file another one.
                members = {"jpg": images[index % len(images)] + key.encode(), "txt": CAPTION[:120].encode()}
                tar.write_sample(key, members | {"json": metadata(key, side)})


def add_layer(folder: Path, below: list[str], name: str) -> None:
    """A caption layer as recaption writes it."""
    source = open_source(below)
    writer = open_layer(folder, layer=name, source=source)
    blank = Annotation(
        layer=name,
        kind="caption",
        text=CAPTION,
        round=1,
        model="runs/world/round0/sft",
        model_sha256="0" * 64,
        prompt_id="long-v1",
        prompt_sha256="1" * 64,
        sampling={"engine": "vllm", "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 128},
        decision={"source": "model", "attempts": [{"prompt": "long-v1", "temperature": 0.0, "defect": None}]},
        seed=1,
        num_tokens=96,
        finish_reason="stop",
        logprob_mean=-0.5,
    )
    for shard in source.shards:
        with writer.shard(shard) as out:
            for sample in out.samples():
                out.annotate(sample, blank)


def read_bare(tars: list[str]) -> int:
    num = 0
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                data = file.read()
                if member.name.endswith(IMAGE_NAMES):
                    Image.open(io.BytesIO(data)).convert("RGB")
                    num += 1
    return num


def read_samples(source: Source, *, noted: bool = False) -> int:
    num = 0
    for shard in source.shards:
        for sample in read_shard(shard, on_reject=print, fingerprints={} if noted else None):
            decode_image(sample.images[0].data)
            num += 1
    return num


def measure(side: int, *, num_shards: int, num_samples: int, repeats: int) -> dict[str, Any]:
    """Processor seconds per image of every way to read, as medians over the repeats."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make_shards(work / "data", side, num_shards=num_shards, num_samples=num_samples)
        add_layer(work / "r1", [str(work / "data")], "recaption")
        add_layer(work / "ocr", [str(work / "r1")], "ocr")
        add_layer(work / "grounding", [str(work / "ocr")], "grounding")
        tars = sorted(str(path) for path in (work / "data").glob("*.tar"))
        plain, one, three = (open_source([str(work / folder)]) for folder in ("data", "r1", "grounding"))
        ways: dict[str, Callable[[], int]] = {
            "bare": lambda: read_bare(tars),
            "vila2": lambda: read_samples(plain),
            "noted": lambda: read_samples(plain, noted=True),
            "layer": lambda: read_samples(one),
            "layers": lambda: read_samples(three),
        }
        num_images = num_shards * num_samples
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(repeats + 1):
            for way, read in ways.items():
                start = time.process_time()
                assert read() == num_images
                if number > 0:  # the first round fills caches
                    seconds[way].append((time.process_time() - start) / num_images)
        image_bytes = statistics.mean(len(data) for data in map(photograph, [side] * 4, range(4)))
    bare, vila2 = seconds["bare"], seconds["vila2"]
    return {
        "side": side,
        "image_bytes": round(image_bytes),
        "num_images": num_images,
        "microseconds_per_image": {
            way: round(1e6 * statistics.median(found), 1) for way, found in seconds.items()
        },
        "rate_against_bare": ratio(bare, vila2),
        "noted_against_bare": ratio(bare, seconds["noted"]),
        "cost_of_a_layer": round(ratio(seconds["layer"], vila2) - 1, 4),
        "cost_of_three_layers": round(ratio(seconds["layers"], vila2) - 1, 4),
    }


def ratio(over: list[float], under: list[float]) -> float:
    """The median of the ratios of neighbouring measurements."""
    return round(statistics.median(a / b for a, b in zip(over, under, strict=True)), 4)


def main() -> None:
    parser = running.parser_of(__doc__, "reading")
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[64, 256, 384, 512, 1024], help="image sizes in pixels"
    )
    parser.add_argument("--num-shards", type=int, default=4)
    parser.add_argument("--num-samples", type=int, default=250, help="per shard")
    parser.add_argument("--repeats", type=int, default=9)
    args = running.parse(parser, sides=[64], num_shards=2, num_samples=4, repeats=2)
    if not KEEP_FREED.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_FREED)
    found = []
    for side in args.sides:
        counts = {"num_shards": args.num_shards, "num_samples": args.num_samples, "repeats": args.repeats}
        row = measure(side, **counts)
        row["holds"] = row["rate_against_bare"] >= 0.9 and row["cost_of_a_layer"] < 0.05
        found.append(row)
        print(
            f"{side} px, {row['image_bytes']:,} bytes: {row['rate_against_bare']:.3f} of bare "
            f"({row['noted_against_bare']:.3f} with SHA-256), a layer costs {row['cost_of_a_layer']:.1%}, "
            f"three {row['cost_of_three_layers']:.1%}; {row['microseconds_per_image']} us per image",
            flush=True,
        )
    write_results(args.out, {"machine": machine(), "sizes": found})


if __name__ == "__main__":
    main()
