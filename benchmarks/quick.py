"""`--quick`: every benchmark in seconds, to see that it still runs; its figures say nothing and are not kept.

It works and writes in a temporary folder, on a world and models as small as can be, and its commands run
in its own process, which imports torch once. `benchmarks/smoke.py` runs them all.
"""

import argparse
import atexit
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

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


def is_on() -> bool:
    """Whether this run is only to see that the benchmark runs."""
    return FLAG in sys.argv[1:]


def parse(parser: argparse.ArgumentParser, **small: Any) -> argparse.Namespace:
    """The options; with --quick these smaller ones by default, and a folder and a file that go when it ends."""
    parser.add_argument(FLAG, action="store_true", help="in seconds, to see that it runs; writes no results")
    if is_on():
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


def vila2(words: list[str]) -> None:
    """Run a command in this process."""
    from vila2cli.cli.app import main

    if code := main(words):
        sys.exit(f"vila2 {' '.join(words)} ended with {code}")
