"""Killed at random moments and started again until done: is the layer that of an undisturbed run?

`vila2 recaption` captions small shards, some of whose samples are broken, once in peace and then while
it is killed. Half of the kills fall anywhere between start and a few shards later, half are aimed: they
wait until a file is being written. After each one every finished shard has to be the undisturbed one,
at the end
  hf      all tars and rejects are byte-identical, all counts equal
  vllm    keys, order and counts are equal, and 99.5% of the captions
and no partial file or lock is left, and no finished shard was written again. With --signal TERM, USR1
or INT the process may end only with exit code 75 (or 0, when it was through). Of several signals, as of several
--workers, one is drawn for each attempt; undisturbed, nobody makes pictures ready ahead. With --photos they are
photographs of 500 to 1,100 pixels a side, no two of a size (photos.py says how they are made).

Attempts with hf are forked from one process that has imported everything, so that a kill hits the work
and not the import of torch; --fresh starts a new interpreter each time, as vllm needs it.

    python benchmarks/durability.py
    python benchmarks/durability.py --kills 20 --engine vllm
    python benchmarks/durability.py --kills 30 --signal KILL TERM --workers 0 1 2 --photos ../shared/data
"""

import argparse
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import running
from photos import photos
from recaption_rows import jpeg
from running import machine, samples_of, write_results

from vila2cli.shards import TarWriter, done
from vila2cli.shards.sample import Annotation

INTERRUPTED = 75
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
POLL_S = 0.0005
COUNTS = ("in", "out", "dropped", "rejected", "tokens", "requests", "prompts", "kept", "finish_reasons")


def make_shards(folder: Path, num_shards: int, num_samples: int, large: Sequence[bytes] = ()) -> None:
    """Shards of pictures of 48 pixels, or of the `large` ones."""
    for shard in range(num_shards):
        with TarWriter(folder / f"{shard:05}.tar") as tar:
            for index in range(num_samples):
                number = shard * num_samples + index
                data = large[number % len(large)] if large else jpeg(number, 48)
                is_broken = index == 1 and shard % 3 == 0
                tar.write_sample(
                    f"{shard:05}-{index:03}", {"jpg": data[:300] if is_broken else data, "txt": b"alt"}
                )


def make_model(folder: Path) -> None:
    """The embedded world's bases under an untrained projector: what it says does not matter."""
    from vila2cli.model.build import build
    from vila2cli.settings import BaseSettings

    model, processor = build(BaseSettings(), seed=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


class Attempt:
    """One run of the command in a process of its own; `code` is its exit code once it has ended."""

    def __init__(self, words: list[str], log: Path, *, fresh: bool) -> None:
        with log.open("ab") as stream:
            if fresh:
                command = [sys.executable, "-m", "vila2cli", *words]
                self.pid = subprocess.Popen(command, stdout=stream, stderr=stream).pid
            else:
                self.pid = fork(lambda: run_command(words), stream.fileno())
        self.start_s = time.monotonic()

    def ended(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def fork(action: Callable[[], int | None], output: int) -> int:
    """The process id of a copy of this process that does `action` and ends.

    Around `action` a signal to stop ends it with INTERRUPTED: the console script, which would, is not there.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    pid = os.fork()
    if not pid:
        for number in STOPPING:
            signal.signal(number, lambda *_: os._exit(INTERRUPTED))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    if pid:
        return pid
    code = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = action() or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_command(words: list[str]) -> int:
    from vila2cli.cli.app import main as vila2

    return vila2(words)


class Trial:
    """Layers written under fire, compared with the one written in peace."""

    def __init__(self, work: Path, args: argparse.Namespace) -> None:
        self.work, self.args = work, args
        self.data, self.model, self.peace = work / "data", work / "model", work / "peace" / "layer"
        self.log = work / "log.txt"
        self.rng = random.Random(args.seed)
        self.fresh = args.fresh or args.engine == "vllm"
        self.signals = [signal.Signals[f"SIG{name}"] for name in args.signal]
        self.figures: dict[str, Any] = {"kills": 0, "attempts": 0, "hit_a_write": 0, "layers": 0}
        self.seen: dict[Path, tuple[int, int]] = {}

    def prepare(self) -> tuple[float, float]:
        """Make data, model and the undisturbed layer; returns seconds to its first shard, and per shard."""
        num = self.args.num_shards * self.args.num_samples
        large = photos(num, self.args.photos) if self.args.photos else []
        make_shards(self.data, self.args.num_shards, self.args.num_samples, large)
        with self.log.open("ab") as stream:
            pid = fork(lambda: make_model(self.model), stream.fileno())
        check(os.waitpid(pid, 0)[1] == 0, f"no model could be made:\n{self.log.read_text()[-2000:]}")
        attempt = Attempt(self.words(self.peace, num_workers=0), self.log, fresh=self.fresh)
        first_s = 0.0
        while (code := attempt.ended()) is None:
            time.sleep(POLL_S)
            first_s = first_s or (time.monotonic() - attempt.start_s if done(self.peace) else 0.0)
        check(code == 0, f"the undisturbed run failed:\n{self.log.read_text()[-2000:]}")
        return first_s, (time.monotonic() - attempt.start_s - first_s) / self.args.num_shards

    def words(self, out: Path, num_workers: int | None = None) -> list[str]:
        if num_workers is None:
            num_workers = self.rng.choice(self.args.workers)
        sets = [
            f"engine.workers={num_workers}",
            f"recaption.engine={self.args.engine}",
            "recaption.max_new_tokens=12",
            "recaption.batch_size=4",
            "recaption.max_reject_rate=1.0",
        ]
        words = ["recaption", "--model", str(self.model), "--shards", f"{self.data}/*.tar", "--out", str(out)]
        return [*words, *running.set_options(sets)]

    def run(self) -> None:
        """Kill until there were as many kills as requested, each layer to its end."""
        first_s, per_shard_s = self.prepare()
        start_s = time.monotonic()
        while self.figures["kills"] < self.args.kills:
            out = self.work / f"fire{self.figures['layers']}" / "layer"
            self.seen.clear()
            while self.figures["kills"] < self.args.kills:
                if self.attempt(out, self.rng.uniform(0, first_s + 4 * per_shard_s)) == 0:
                    break
                self.check_finished(out)
            self.figures["attempts"] += 1
            check(Attempt(self.words(out), self.log, fresh=self.fresh).wait() == 0, "it could not be finished")
            self.check_whole(out)
            self.figures["layers"] += 1
        self.figures["seconds"] = round(time.monotonic() - start_s, 1)

    def attempt(self, out: Path, moment_s: float) -> int:
        """Start the command and kill it; returns its exit code."""
        number = self.rng.choice(self.signals)
        attempt = Attempt(self.words(out), self.log, fresh=self.fresh)
        self.figures["attempts"] += 1
        is_aimed = self.rng.random() < 0.5
        while (code := attempt.ended()) is None:
            elapsed_s = time.monotonic() - attempt.start_s
            if elapsed_s >= moment_s and (not is_aimed or any(out.glob("*.partial"))):
                os.kill(attempt.pid, number)
                self.figures["kills"] += 1
                code = attempt.wait()
                self.figures["hit_a_write"] += any(out.glob("*.partial"))
                break
            time.sleep(POLL_S)
        fine = (0, -number) if number == signal.SIGKILL else (0, INTERRUPTED)
        check(code in fine, f"it ended with exit code {code}:\n{self.log.read_text()[-2000:]}")
        return code

    def check_finished(self, out: Path) -> None:
        """Every shard that is finished is the undisturbed one, and was not touched since it was."""
        for name in done(out):
            for path in (out / f"{name}.tar.gz", out / f"{name}.stats.json"):
                status = path.stat()
                was = self.seen.setdefault(path, (status.st_ino, status.st_mtime_ns))
                check(was == (status.st_ino, status.st_mtime_ns), f"{path} was finished and written again")
            self.check_shard(out, name)

    def check_shard(self, out: Path, name: str) -> None:
        ours, theirs = out / f"{name}.tar.gz", self.peace / f"{name}.tar.gz"
        if self.args.engine == "hf":
            check(ours.read_bytes() == theirs.read_bytes(), f"{ours} differs from the undisturbed one")

    def check_whole(self, out: Path) -> None:
        self.check_finished(out)
        check(done(out) == done(self.peace) and len(done(out)) == self.args.num_shards, "shards are missing")
        left = [path for path in out.parent.rglob("*") if path.name.endswith((".partial", ".lock"))]
        check(not left, f"left over: {left}")
        summaries = [json.loads((folder / "summary.json").read_bytes()) for folder in (out, self.peace)]
        for key in COUNTS if self.args.engine == "hf" else COUNTS[:4]:
            ours, theirs = (summary.get(key) for summary in summaries)
            check(ours == theirs, f"{key} is {ours}, undisturbed it was {theirs}")
        if self.args.engine == "hf":
            ours, theirs = ((folder / "rejects.jsonl").read_bytes() for folder in (out, self.peace))
            check(ours == theirs, "other rejects than undisturbed")
        else:
            self.compare_captions(out)

    def compare_captions(self, out: Path) -> None:
        ours, theirs = captions(out), captions(self.peace)
        check(list(ours) == list(theirs), "other keys, or in another order")
        same = sum(ours[key].text == theirs[key].text for key in ours) / len(ours)
        self.figures["captions_equal"] = min(same, self.figures.get("captions_equal", 1.0))
        check(same >= 0.995, f"only {same:.1%} of the captions are equal")


def captions(layer: Path) -> dict[str, Annotation]:
    return {sample.key: sample.annotations[0] for sample in samples_of(layer) if sample.annotations}


def check(holds: bool, message: str) -> None:
    if not holds:
        raise SystemExit(f"durability: {message}")


def main() -> None:
    parser = running.parser_of(__doc__, "durability")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--engine", choices=("hf", "vllm"), default="hf")
    parser.add_argument("--signal", nargs="+", choices=("KILL", "TERM", "USR1", "INT"), default=["KILL"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1], help="that make pictures ready ahead")
    parser.add_argument("--photos", type=Path, help="caption such of this folder, drawn ones where it has none")
    parser.add_argument("--num-shards", type=int, default=60)
    parser.add_argument("--num-samples", type=int, default=12, help="per shard")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--fresh", action="store_true", help="start a new interpreter for every attempt")
    several = {"signal": ["KILL", "TERM"], "workers": [0, 1, 2], "photos": Path("drawn")}
    args = running.parse(parser, kills=4, num_shards=4, num_samples=3, **several)
    os.environ["OMP_NUM_THREADS"] = "1"  # a process with more threads cannot be forked
    if not args.fresh and args.engine == "hf":
        for name in ("torch", "transformers", "cli.app", "stages.recaption", "engine.hf"):
            importlib.import_module(f"vila2cli.{name}" if "." in name else name)
    with tempfile.TemporaryDirectory() as name:
        trial = Trial(Path(name), args)
        trial.run()
    how = {"engine": args.engine, "signal": args.signal, "workers": args.workers, "photos": bool(args.photos)}
    figures = {**how, "num_shards": args.num_shards, **trial.figures}
    print(json.dumps(figures, indent=1))
    write_results(args.out, {"machine": machine(), **figures})


if __name__ == "__main__":
    main()
