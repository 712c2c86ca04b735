"""How quick is a filter without a model? `vila2 filter --where --top` beside `vila2 shards stats`, same shards.

Both read every sample; stats counts, the filter also hashes the pictures and writes a layer. Whole commands are
timed, wall clock, in turn, so that whatever else the machine does hits both. The shards lie in the page cache.
  metadata  conditions on fields of KEY.json
  pictures  the same and conditions on the pictures' headers, and the best 20% of each shard
Must hold: the speed of both is 0.9 of that of stats or more.

    python benchmarks/choosing.py
    python benchmarks/choosing.py --num-samples 20000 --repeats 2
"""

import io
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import running
from PIL import Image
from running import REPO, machine, write_results

from vila2cli.shards import TarWriter

METADATA = ("clip_similarity_vitl14 >= 0.28", "nsfw_score < 0.1")
PICTURES = (*METADATA, "min(width, height) >= 100", "aspect <= 3")
TOP = "clip_similarity_vitl14:0.2"


def picture(random: Random, side: int) -> bytes:
    """Coarse noise, about as many bytes as a web picture of its size."""
    size = random.randint(side // 2, 2 * side), random.randint(side // 2, 2 * side)
    noise = Image.effect_noise((size[0] // 8 + 1, size[1] // 8 + 1), 90).resize(size)
    stream = io.BytesIO()
    Image.merge("RGB", (noise, noise, noise)).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def write_shards(folder: Path, num: int, per_shard: int, side: int) -> None:
    """Shards of COYO's kind: a picture, its alt-text, and scores in the metadata."""
    random = Random(0)
    pictures = [picture(random, side) for _ in range(100)]
    for first in range(0, num, per_shard):
        with TarWriter(folder / f"{first // per_shard:06}.tar") as tar:
            for number in range(first, min(first + per_shard, num)):
                meta = {
                    "url": f"https://example.org/images/{number:09}.jpg",
                    "clip_similarity_vitl14": round(random.uniform(0.1, 0.4), 6),
                    "clip_similarity_vitb32": round(random.uniform(0.1, 0.4), 6),
                    "nsfw_score": round(random.uniform(0.0, 0.3), 6),
                    "original_width": 640,
                    "original_height": 480,
                }
                text = f"a caption of some twelve words as people write them on pages {number}"
                members = {
                    "jpg": pictures[number % 100],
                    "txt": text.encode(),
                    "json": json.dumps(meta).encode(),
                }
                tar.write_sample(f"{number:09}", members)


def seconds_of(*words: str) -> float:
    start_s = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "vila2cli", *words],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - start_s


def measure(data: Path, work: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds of each, in turn."""
    out = work / "chosen"
    choose = ("filter", "--shards", str(data), "--out", str(out))
    kinds = {
        "stats": ("shards", "stats", str(data)),
        "metadata": (*choose, "--where", *METADATA),
        "pictures": (*choose, "--where", *PICTURES, "--top", TOP),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(repeats):
        for name, words in kinds.items():
            shutil.rmtree(out, ignore_errors=True)
            seconds[name].append(seconds_of(*words))
    return seconds


def main() -> None:
    parser = running.parser_of(__doc__, "choosing")
    parser.add_argument("--num-samples", type=int, default=100_000)
    parser.add_argument("--per-shard", type=int, default=1000)
    parser.add_argument("--side", type=int, default=128, help="pixels; pictures have half to twice as many")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, default=REPO / "runs" / "benchmark-choosing")
    options = running.parse(parser, num_samples=200, per_shard=50, repeats=1)
    data = options.work / f"data-{options.num_samples}-{options.side}"
    if not data.is_dir():
        write_shards(data, options.num_samples, options.per_shard, options.side)
    seconds = measure(data, options.work, options.repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    results: dict[str, Any] = {
        "machine": machine(),
        "num_samples": options.num_samples,
        "seconds": seconds,
        "samples_per_s": {name: options.num_samples / median for name, median in medians.items()},
        "speed_of_stats": {name: medians["stats"] / median for name, median in medians.items()},
    }
    for name, share in results["speed_of_stats"].items():
        print(f"{name}: {results['samples_per_s'][name]:,.0f} samples/s, {share:.2f} of stats")
    write_results(options.out, results, options.work)


if __name__ == "__main__":
    main()
