"""How much of an eval's time is spent outside of the engine, on short questions with the tiny model.

python benchmarks/eval_overhead.py                  # 10,000 questions, written into a temporary folder
python benchmarks/eval_overhead.py --num 400        # a try

Time in the engine is what its `generate` takes to hand out each result; reading, decoding and preparing the
requests that it pulls in between are not counted as its own; the command line's own work is outside, too.
Prints one JSON object and, with --out, keeps it.
"""

import argparse
import io
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import running
from PIL import Image

SHARD = 1000


def main() -> None:
    parser = running.parser_of(__doc__)
    parser.add_argument("--num", type=int, default=10_000, help="questions")
    parser.add_argument("--threads", type=int, default=2, help="cores for the model")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--out", type=Path, help="file for the result")
    options = running.parse(parser, num=16, batch_size=8, new_tokens=2)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options)
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write questions and a checkpoint, evaluate, and say where the time went."""
    import torch

    from vila2cli.ask import model as asked
    from vila2cli.cli.app import main as vila2
    from vila2cli.model.build import build
    from vila2cli.settings import BaseSettings

    torch.set_num_threads(options.threads)
    model, processor = build(BaseSettings(), seed=0)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    write_task(folder / "task", options.num)
    clock = Clock()
    asked.open_engine = clock.watch(asked.open_engine)
    words = ["eval", "--model", folder / "model", "--tasks", folder / "task", "--out", folder / "eval"]
    words += ["--set", "eval.engine=hf", "--set", f"eval.batch_size={options.batch_size}"]
    words += ["--set", f"eval.max_new_tokens={options.new_tokens}"]
    start_s = time.perf_counter()
    assert vila2(list(map(str, words))) == 0
    total_s = time.perf_counter() - start_s
    metrics = json.loads((folder / "eval" / "metrics.json").read_text())
    assert metrics["tasks"]["task"]["num_samples"] == options.num
    outside_s = total_s - clock.engine_s - clock.loading_s
    return {
        "questions": options.num,
        "seconds": round(total_s, 2),
        "engine_seconds": round(clock.engine_s, 2),
        "loading_seconds": round(clock.loading_s, 2),
        "outside_seconds": round(outside_s, 2),
        "outside_share": round(outside_s / total_s, 4),
        "threads": options.threads,
        "batch_size": options.batch_size,
        "max_new_tokens": options.new_tokens,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }


class Clock:
    """Adds up the time inside of an engine, without that in the requests it asks for."""

    def __init__(self) -> None:
        self.engine_s = 0.0
        self.loading_s = 0.0

    def watch(self, open_engine: Any) -> Any:
        """`open_engine` with a clock on what it opens."""

        def opened(*args: Any, **kwargs: Any) -> Any:
            start_s = time.perf_counter()
            engine = open_engine(*args, **kwargs)
            self.loading_s += time.perf_counter() - start_s
            generate = engine.generate
            engine.generate = lambda requests: self._timed(generate, requests)
            return engine

        return opened

    def _timed(self, generate: Any, requests: Iterable[Any]) -> Iterator[Any]:
        results = generate(self._untimed(requests))
        while True:
            start_s = time.perf_counter()
            try:
                result = next(results)
            except StopIteration:
                return
            finally:
                self.engine_s += time.perf_counter() - start_s
            yield result

    def _untimed(self, requests: Iterable[Any]) -> Iterator[Any]:
        source = iter(requests)
        while True:
            start_s = time.perf_counter()
            try:
                request = next(source)
            except StopIteration:
                return
            finally:
                self.engine_s -= time.perf_counter() - start_s
            yield request


def write_task(folder: Path, num: int) -> None:
    """Yes/no questions about small pictures of one colour."""
    from vila2cli.shards import TarWriter

    folder.mkdir(parents=True)
    (folder / "task.toml").write_text('name = "task"\nanswer_type = "yesno"\nscorer = "pope"\n')
    for start in range(0, num, SHARD):
        with TarWriter(folder / f"{start // SHARD:06d}.tar") as tar:
            for number in range(start, min(start + SHARD, num)):
                stream = io.BytesIO()
                Image.new("RGB", (64, 64), (number % 256, number // 256 % 256, 90)).save(stream, "JPEG")
                meta = {"question": "Is there a red square?", "answers": ["yes" if number % 2 else "no"]}
                tar.write_sample(f"{number:09d}", {"jpg": stream.getvalue(), "json": json.dumps(meta).encode()})


if __name__ == "__main__":
    main()
