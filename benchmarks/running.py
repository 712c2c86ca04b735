"""What the benchmarks share: options and their quick form, the command, layers that it wrote, and results.

`--quick` is every benchmark in seconds, to see that it still runs; its figures say nothing and are not kept.
It works and writes in a temporary folder, on a world and models as small as can be, and its commands run
in its own process, which imports torch once. `benchmarks/smoke.py` runs them all.
"""

import argparse
import atexit
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vila2cli.shards import open_source, read_shard
from vila2cli.shards.sample import Sample

REPO = Path(__file__).parents[1]
RESULTS = REPO / "benchmarks" / "results"
RECIPE = REPO / "recipes" / "world.toml"
FLAG = "--quick"
WORLD = (
    *(f"world.num_{name}=8" for name in ("pretrain", "sft", "specialist")),
    *(f"world.num_{name}=4" for name in ("interleaved", "text", "dev", "eval")),
    *(f"{stage}.epochs=1" for stage in ("pretrain.align", "pretrain.main", "sft")),
    *(f"specialists.{name}.epochs=1" for name in ("spatial", "grounding", "ocr")),
    "recaption.max_new_tokens=8",
    "recaption.retry_temperatures=[]",
    "recaption.max_reject_rate=1.0",
    "eval.max_new_tokens=2",
    "eval.num_bootstrap=20",
    "judge.num_samples=4",
    "judge.num_bootstrap=20",
)
"""Settings of recipes/world.toml for runs of a few steps."""


def is_quick() -> bool:
    """Whether this run is only to see that the benchmark runs."""
    return FLAG in sys.argv[1:]


def parser_of(description: str | None, name: str = "") -> argparse.ArgumentParser:
    """A parser whose help is a script's docstring, with --out where results have a `name`."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=formatter)
    if name:
        parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    return parser


def parse(parser: argparse.ArgumentParser, **small: Any) -> argparse.Namespace:
    """The options; with --quick these smaller ones by default, and a folder and a file that go when it ends."""
    parser.add_argument(FLAG, action="store_true", help="in seconds, to see that it runs; writes no results")
    if is_quick():
        folder = Path(tempfile.mkdtemp(prefix="vila2-quick-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        parser.set_defaults(work=folder / "work", out=folder / "results.json", **small)
    return parser.parse_args()


def engines(*wanted: str) -> list[str]:
    """The engines that can be run here; says which cannot."""
    has_vllm = importlib.util.find_spec("vllm") is not None
    if not has_vllm and "vllm" in wanted:
        print("vllm is not installed: its rows are left out", flush=True)
    return [engine for engine in wanted if has_vllm or engine != "vllm"]


def set_options(texts: Iterable[str]) -> list[str]:
    """Settings as options of the command."""
    return [word for text in texts for word in ("--set", text)]


def vila2(words: Sequence[str], sets: Iterable[str] = (), log: Path | None = None) -> float:
    """Run a command, in this process with --quick; returns its seconds. Its output goes to `log`, if given."""
    words = [*words, *set_options(sets)]
    start_s = time.monotonic()
    if is_quick():
        from vila2cli.cli.app import main

        if code := main(words):
            sys.exit(f"vila2 {' '.join(words)} ended with {code}")
    elif log is None:
        subprocess.run([sys.executable, "-m", "vila2cli", *words], check=True)
    else:
        with log.open("ab") as stream:
            command = [sys.executable, "-m", "vila2cli", *words]
            subprocess.run(command, check=True, stdout=stream, stderr=stream)
    return time.monotonic() - start_s


def samples_of(*specs: str | Path) -> Iterator[Sample]:
    """The samples of shards or layers, in order."""
    for shard in open_source([str(spec) for spec in specs]).shards:
        yield from read_shard(shard, on_reject=lambda reject: None)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def machine() -> dict[str, Any]:
    return {
        "cpu": platform.processor() or platform.machine(),
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("vila2cli", "torch", "transformers")},
    }


def write_results(out: Path, results: Mapping[str, Any], work: Path | None = None) -> None:
    """Write what a benchmark found as JSON; paths below `work`, which are this machine's, become relative."""
    text = json.dumps(results, indent=1)
    if work is not None:
        text = text.replace(json.dumps(f"{work.absolute()}/")[1:-1], "")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n")
    print(f"wrote {out}", flush=True)
