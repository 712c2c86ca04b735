"""Is memory flat in the number of shards? Peak memory over 200 of them against that over 20.

  read       every sample is read and its image decoded, in one process
  recaption  `vila2 recaption` with hf and a tiny model, from tar to tar
  vllm       the same with vllm (--engine vllm)
  photos     recaption with photos of all-different sizes (--photos FOLDER) and a processor of 364 pixels
Each run is a process of its own; the peak is its largest resident set, VmHWM of /proc/self/status (ru_maxrss
would count the process that started it). Must hold: 200 shards take at most 10% more than 20.

    python benchmarks/memory.py
    python benchmarks/memory.py --shards 2 20 --num-samples 4
    python benchmarks/memory.py --only photos --photos ../shared/data --num-samples 4
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import running
from durability import make_model, make_shards
from photos import photos
from reading import make_shards as make_photographs
from recaption_model import SIZES, build_model
from running import machine, write_results

from vila2cli.shards.tarwriter import TarWriter

LIMIT = 0.10
READ = """
import sys
from vila2cli.image import decode_image
from vila2cli.shards import open_source, read_shard
for shard in open_source(sys.argv[1:]).shards:
    for sample in read_shard(shard, on_reject=print):
        decode_image(sample.images[0].data)
"""
RECAPTION = """
import sys
from vila2cli.cli.app import main
code = main(sys.argv[1:])
if code:
    sys.exit(code)
"""
PEAK = "print('peak', next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"


def peak_mib(code: str, *words: str) -> float:
    """The largest resident set of a Python process that runs `code`, in MiB."""
    command = [sys.executable, "-c", f"{code}\n{PEAK}", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"memory: exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return int(done.stdout.rpartition("peak ")[2]) / 1024


def shard_range(folder: Path, count: int) -> str:
    return f"{folder}/{{{0:05}..{count - 1:05}}}.tar"


def recaption(work: Path, engine: str, count: int, data: str = "small", model: str = "model") -> float:
    sets = [
        f"recaption.engine={engine}",
        "recaption.max_new_tokens=8",
        "recaption.batch_size=16",
        "recaption.max_reject_rate=1.0",
        "recaption.retry_temperatures=[]",
    ]
    out = ["--out", str(work / f"{data}-{engine}{count}"), "--shards", shard_range(work / data, count)]
    return peak_mib(RECAPTION, "recaption", "--model", str(work / model), *out, *running.set_options(sets))


def make_photo_shards(folder: Path, photos_from: Path, num_shards: int, num_samples: int) -> None:
    """Shards of the same 64 photos; bytes after the image's end make every file another one."""
    jpegs = photos(64, photos_from)
    for shard in range(num_shards):
        with TarWriter(folder / f"{shard:05}.tar") as tar:
            for index in range(num_samples):
                number = shard * num_samples + index
                jpeg = jpegs[number % len(jpegs)] + str(number).encode()
                tar.write_sample(f"{number:09}", {"jpg": jpeg, "txt": b"a photo"})


def main() -> None:
    parser = running.parser_of(__doc__, "memory")
    parser.add_argument("--shards", type=int, nargs=2, default=(20, 200), help="the two numbers compared")
    parser.add_argument("--num-samples", type=int, default=16, help="per shard that is captioned")
    parser.add_argument("--num-read", type=int, default=50, help="photographs per shard that is only read")
    parser.add_argument("--engine", choices=("hf", "vllm"), default="hf")
    parser.add_argument("--photos", type=Path, help="a folder with photos: also recaption such")
    parser.add_argument("--only", nargs="+", help="of the ways those that begin so")
    args = running.parse(parser, shards=(1, 2), num_samples=2, num_read=2)
    few, many = args.shards
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make_photographs(work / "photographs", 256, num_shards=many, num_samples=args.num_read)
        make_shards(work / "small", many, args.num_samples)
        make_model(work / "model")
        ways = {
            "read": lambda count: peak_mib(READ, shard_range(work / "photographs", count)),
            f"recaption {args.engine}": lambda count: recaption(work, args.engine, count),
        }
        if args.photos:
            make_photo_shards(work / "photos", args.photos, many, args.num_samples)
            vision = {**SIZES["tiny"].vision, "image_size": 364, "patch_size": 14}
            build_model(replace(SIZES["tiny"], vision=vision), work / "wide")
            ways[f"photos {args.engine}"] = lambda count: recaption(work, args.engine, count, "photos", "wide")
        for way, measure in ways.items():
            if args.only and not way.startswith(tuple(args.only)):
                continue
            peaks = {count: round(measure(count), 1) for count in (few, many)}
            growth = peaks[many] / peaks[few] - 1
            rows.append({"way": way, "peak_mib": peaks, "growth": round(growth, 4), "holds": growth <= LIMIT})
            figures = f"{peaks[few]:,.0f} MiB over {few} shards, {peaks[many]:,.0f} over {many}, {growth:+.1%}"
            print(f"{way}: {figures}", flush=True)
    write_results(args.out, {"machine": machine(), "limit": LIMIT, "rows": rows})


if __name__ == "__main__":
    main()
