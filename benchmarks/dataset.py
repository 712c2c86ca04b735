"""What `vila2cli.shards.dataset` costs a trainer: base shards and a caption layer, against merged tars.

For each image size, in turn and many times over, so that whatever else the machine does hits all alike:
  webdataset  webdataset alone on the tars that `vila2 shards merge` makes of shards and layer, which hold the
              captions: members as bytes, or decoded by its "pilrgb"
  dataset     the shards and the layer as they are, unmerged, by `dataset(..., caption="recaption")`
Both are webdataset pipelines, of one process or through a torch DataLoader with workers, with or without a
shuffle buffer. Time is that of the processors (user and system), of the workers, too. The tars lie in the page
cache, where reading weighs most. Must hold: dataset at 0.9 of the speed of webdataset or better.

    python benchmarks/dataset.py
    python benchmarks/dataset.py --sides 256 --repeats 3
"""

import os
import resource
import statistics
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import reading
import running
import torch
import webdataset
from running import machine, write_results
from torch.utils.data import DataLoader

from vila2cli.shards import dataset, open_source
from vila2cli.stages.merge import merge


def merged(tars: list[str], *, decode: bool, shuffle: int) -> webdataset.DataPipeline:
    """What webdataset's documentation gives for a trainer."""
    steps: list[Any] = [webdataset.SimpleShardList(tars), webdataset.split_by_node, webdataset.split_by_worker]
    steps += [webdataset.tarfile_to_samples()]
    steps += [webdataset.shuffle(shuffle)] if shuffle else []
    steps += [webdataset.decode("pilrgb")] if decode else []
    return webdataset.DataPipeline(*steps)


def size_of(sample: dict[str, Any]) -> int:
    """So little of a sample goes from a worker to its parent that only reading it is measured."""
    return len(sample["__key__"])


def processor_s() -> float:
    """Of this process and those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def count(samples: Iterable[Any]) -> int:
    return sum(1 for _ in samples)


def count_in_workers(data: webdataset.DataPipeline, workers: int) -> int:
    return count(DataLoader(data.compose(webdataset.map(size_of)), batch_size=16, num_workers=workers))


def measure(side: int, *, num_shards: int, num_samples: int, repeats: int, workers: int) -> dict[str, Any]:
    """Seconds per sample of both, for every way to use them, and the median of their ratios."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        reading.make_shards(work / "data", side, num_shards=num_shards, num_samples=num_samples)
        reading.add_layer(work / "r1", [str(work / "data")], "recaption")
        merge(open_source([work / "r1"]), work / "merged", captions=["recaption"])
        tars = sorted(str(path) for path in (work / "merged").glob("*.tar"))
        rows = {}
        for label, decode, shuffle, num in (
            ("members", False, 0, 0),
            ("decoded", True, 0, 0),
            ("members, shuffled", False, 100, 0),
            ("decoded, shuffled", True, 100, 0),
            (f"members, {workers} workers", False, 0, workers),
            (f"decoded, {workers} workers", True, 0, workers),
        ):
            theirs = merged(tars, decode=decode, shuffle=shuffle)
            ours = dataset(work / "r1", caption="recaption", decode=decode, shuffle=shuffle)
            rows[label] = compare(theirs, ours, num, repeats, num_shards * num_samples)
    return rows


def compare(
    theirs: webdataset.DataPipeline,
    ours: webdataset.DataPipeline,
    workers: int,
    repeats: int,
    num_samples: int,
) -> dict[str, float]:
    """One after the other, the first time to fill caches."""
    seconds: dict[str, list[float]] = {"webdataset": [], "dataset": []}
    for number in range(repeats + 1):
        for name, data in (("webdataset", theirs), ("dataset", ours)):
            start = processor_s()
            if workers:
                count_in_workers(data, workers)
            else:
                assert count(data) == num_samples
            if number > 0:
                seconds[name].append((processor_s() - start) / num_samples)
    return {
        **{name: round(1e6 * statistics.median(values), 1) for name, values in seconds.items()},
        "rate_against_webdataset": reading.ratio(seconds["webdataset"], seconds["dataset"]),
    }


def main() -> None:
    parser = running.parser_of(__doc__, "dataset")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 256, 512], help="image sizes in pixels")
    parser.add_argument("--num-shards", type=int, default=4)
    parser.add_argument("--num-samples", type=int, default=250, help="per shard")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    args = running.parse(parser, sides=[64], num_shards=2, num_samples=4, repeats=1)
    if not reading.KEEP_FREED.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | reading.KEEP_FREED)
    torch.set_num_threads(1)
    sizes = []
    for side in args.sides:
        options = {name: getattr(args, name) for name in ("num_shards", "num_samples", "repeats", "workers")}
        rows = measure(side, **options)
        sizes.append({"side": side, "microseconds_per_sample": rows})
        for label, row in rows.items():
            print(
                f"{side} px, {label}: {row['rate_against_webdataset']:.2f} of webdataset's speed "
                f"({row['dataset']:.0f} against {row['webdataset']:.0f} us per sample)",
                flush=True,
            )
    holds = all(
        row["rate_against_webdataset"] >= 0.9
        for size in sizes
        for row in size["microseconds_per_sample"].values()
    )
    print("holds" if holds else "does not hold: below 0.9")
    versions = {name: version(name) for name in ("webdataset", "pillow")}
    write_results(args.out, {"machine": machine() | versions, "holds": holds, "sizes": sizes})


if __name__ == "__main__":
    main()
