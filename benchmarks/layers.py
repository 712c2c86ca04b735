"""What two caption layers, of a long and a short prompt, cost in one pass over the images, beside two passes.

The rows take turns, each from `vila2 recaption` to finished layers of the same model and images:
  together   both layers in one pass: every image is read, decoded and shown to the vision tower once
  apart      one pass for each layer
Wall time is of the commands with the start of Python and engine; without it, what the layers are charged.
Figures are medians. The annotations of the two rows are compared byte by byte.

    python benchmarks/layers.py                              a model of 40M parameters, for a CPU
    python benchmarks/layers.py --engine vllm --new-tokens 48 48
"""

import argparse
import hashlib
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import running
from recaption import versions
from recaption_model import SIZES, build_model
from recaption_rows import discs, write_data
from running import RECIPE, read_json, samples_of, write_results

from vila2cli.files import to_json_bytes

LAYERS = ("recaption", "short")
MOST = 0.75
"""The share of two passes that one may cost."""


@dataclass(frozen=True)
class Measured:
    """Seconds of a row's commands in all, and of asking alone."""

    seconds: float
    asking_s: float


@dataclass(frozen=True)
class Work:
    """Where things lie, and what every command is told."""

    model: Path
    data: Path
    work: Path
    sets: tuple[str, ...]

    def measure(self, row: str) -> tuple[Measured, dict[str, str]]:
        """One row from nothing to finished layers, and the digests of what was written."""
        out = self.work / row
        shutil.rmtree(out, ignore_errors=True)
        seconds = 0.0
        for layers in [LAYERS] if row == "together" else [(layer,) for layer in LAYERS]:
            named = [word for layer in layers for word in ("--layer", layer)]
            words = ["recaption", "--model", str(self.model), "--shards", str(self.data), *named]
            words += ["--out", str(out if row == "together" else out / layers[0]), "--recipe", str(RECIPE)]
            seconds += running.vila2(words, self.sets, log=self.work / "commands.log")
        summaries = [read_json(out / layer / "summary.json") for layer in LAYERS]
        asking_s = sum(summary["cost"]["seconds"] for summary in summaries)
        return Measured(seconds, asking_s), {layer: digest(out / layer, layer) for layer in LAYERS}


def digest(folder: Path, layer: str) -> str:
    """SHA-256 of all annotations of a layer, in order."""
    found = hashlib.sha256()
    for sample in samples_of(folder):
        annotation = sample.annotation(layer)
        found.update(to_json_bytes({} if annotation is None else annotation.to_json()))
    return found.hexdigest()


def compare(runs: dict[str, list[Measured]]) -> dict[str, Any]:
    """The one pass against two: the ratio of median times, and those of every turn."""
    result = {}
    for figure in ("seconds", "asking_s"):
        pairs = [
            (getattr(one, figure), getattr(other, figure))
            for one, other in zip(runs["together"], runs["apart"], strict=True)
        ]
        ratio = median(one for one, _ in pairs) / median(other for _, other in pairs)
        turns = sorted(round(one / other, 3) for one, other in pairs)
        result[figure] = {"ratio": round(ratio, 3), "turns": turns, "most": MOST}
    return result


def parse() -> argparse.Namespace:
    parser = running.parser_of(__doc__, "layers")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--model", type=Path, help="a checkpoint, else one of --size with random weights")
    parser.add_argument("--engine", choices=("vllm", "hf"), default="hf")
    parser.add_argument("--num-images", type=int, default=256)
    parser.add_argument("--num-shards", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, nargs=2, default=[48, 16], metavar=("LONG", "SHORT"))
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-layers"))
    few = {"num_images": 4, "num_shards": 2, "new_tokens": [2, 2], "batch_size": 2, "repeats": 1}
    return running.parse(parser, size="tiny", **few)


def main() -> None:
    options = parse()
    size = SIZES[options.size]
    options.work.mkdir(parents=True, exist_ok=True)
    model = options.model or build_model(size, options.work / f"model-{options.size}")
    data = options.work / f"data-{options.num_images}-{options.num_shards}-{size.picture_side}"
    if not data.exists():
        write_data(data, discs(options.num_images, size.picture_side), num_shards=options.num_shards)
    long, short = options.new_tokens
    sets = (
        f"recaption.engine={options.engine}",
        f"recaption.batch_size={options.batch_size}",
        f"recaption.max_new_tokens={long}",
        "recaption.retry_temperatures=[]",
        "recaption.max_reject_rate=1",
        "captions.short.prompts=simple",
        f"captions.short.max_new_tokens={short}",
    )
    work = Work(model, data, options.work, sets)
    runs: dict[str, list[Measured]] = {"together": [], "apart": []}
    written: dict[str, dict[str, str]] = {}
    for turn in range(options.repeats):
        for row in runs if turn % 2 == 0 else reversed(runs):
            measured, written[row] = work.measure(row)
            runs[row].append(measured)
            print(f"{turn + 1}/{options.repeats} {row}: {measured}", flush=True)
    ratios = compare(runs)
    is_same = written["together"] == written["apart"]
    rows = {row: [asdict(one) for one in measured] for row, measured in runs.items()}
    about = {"machine": versions(), "engine": options.engine, "new_tokens": options.new_tokens}
    about |= {"num_images": options.num_images, "size": options.size}
    write_results(options.out, {**about, "rows": rows, "ratios": ratios, "is_same": is_same}, options.work)
    for figure, found in ratios.items():
        print(f"{figure}: {found['ratio']} of two passes (at most {MOST}), by turn {found['turns']}")
    print(f"the same annotations: {is_same}")


if __name__ == "__main__":
    main()
