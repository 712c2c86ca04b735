"""Does the way work is split among workers change the captions?

`vila2 recaption` over the same shards, once by one worker and then by 2, 3 and 4 with `--worker i/n`
  hf      all tars are byte-identical
  vllm    keys, order and counts are equal, and at least 99.5% of the captions (near-ties may flip
          with the composition of a batch)

    python benchmarks/splits.py --model runs/world/round0/sft --shards data/world/pretrain/*.tar
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import running
from durability import make_model, make_shards
from running import machine, read_json, samples_of, write_results

COUNTS = ("in", "out", "dropped", "rejected")
UNTRAINED = ("recaption.max_reject_rate=1.0", "recaption.max_new_tokens=8", "recaption.retry_temperatures=[]")
LEAST_EQUAL = {"hf": 1.0, "vllm": 0.995}


def recaption(options: argparse.Namespace, engine: str, out: Path, worker: str) -> None:
    words = ["recaption", "--model", str(options.model), "--shards", *options.shards, "--out", str(out)]
    sets = UNTRAINED if options.quick else ()  # an untrained model fails every check
    running.vila2([*words, "--worker", worker], (f"recaption.engine={engine}", *sets))


def captions(layer: Path) -> list[tuple[str, str]]:
    """Key and caption of every sample, in the order of the layer."""
    pairs = ((sample.key, sample.annotation("recaption")) for sample in samples_of(layer))
    return [(key, annotation.text) for key, annotation in pairs if annotation and annotation.text]


def counts(layer: Path) -> dict[str, Any]:
    summary = read_json(layer / "summary.json")
    return {name: summary[name] for name in COUNTS}


def compare(whole: Path, split: Path) -> dict[str, Any]:
    ours, theirs = captions(whole), captions(split)
    tars = {path.name: path.read_bytes() for path in whole.glob("*.tar.gz")}
    return {
        "captions": len(ours),
        "equal_captions": sum(one == other for one, other in zip(ours, theirs, strict=False)) / len(ours),
        "equal_keys_and_order": [key for key, _ in ours] == [key for key, _ in theirs],
        "equal_counts": counts(whole) == counts(split),
        "equal_bytes": tars == {path.name: path.read_bytes() for path in split.glob("*.tar.gz")},
    }


def main() -> None:
    parser = running.parser_of(__doc__, "splits")
    parser.add_argument("--model", type=Path, required=not running.is_quick())
    parser.add_argument("--shards", nargs="+", required=not running.is_quick())
    parser.add_argument("--engines", nargs="+", default=["hf", "vllm"])
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 3, 4])
    options = running.parse(parser, engines=["hf"], workers=[2])
    if options.model is None:
        make_model(options.work / "model")
        make_shards(options.work / "data", 2, 2)
        options.model, options.shards = options.work / "model", [f"{options.work}/data/*.tar"]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        for engine in options.engines:
            whole = Path(work) / engine / "whole"
            recaption(options, engine, whole, "0/1")
            for count in options.workers:
                split = whole.with_name(f"split{count}")
                for index in range(count):
                    recaption(options, engine, split, f"{index}/{count}")
                result = results[f"{engine} {count} workers"] = compare(whole, split)
                print(engine, count, result, flush=True)
    write_results(options.out, {"machine": machine(), "splits": results})
    failed = [
        name
        for name, result in results.items()
        if result["equal_captions"] < LEAST_EQUAL[name.split()[0]]
        or not (result["equal_keys_and_order"] and result["equal_counts"])
    ]
    sys.exit(f"not as promised: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
