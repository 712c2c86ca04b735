"""Two engines side by side: how evenly uneven shards are shared, and what is left when processes are killed.

Forty shards are captioned by two replicas of one core each; one shard, the last by name, is ten times as large
as the others. The time from the first to the last is set against the ideal split: what the replicas worked, by
the figures of the layer, divided by two. Then a replica is killed, or the command is killed, stopped or
interrupted, at random moments, and the command is run again: at the end the layer has to be that of one engine
to the byte, no finished shard may be another one, and no process may be left.

    python benchmarks/replicas.py
    python benchmarks/replicas.py --trials 60 --num-shards 12
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import running
from durability import make_model
from recaption_rows import jpeg
from running import machine, write_results

from vila2cli.shards import TarWriter

NUM_REPLICAS = 2
TIMES_LARGER = 10
KINDS = ("replica", "SIGKILL", "SIGTERM", "SIGINT")
"""What is done in a trial: a replica is killed, or the command gets a signal."""
SETS = ("recaption.engine=hf", "recaption.max_reject_rate=1.0", "recaption.retry_temperatures=[]")
LEFT_S = 5.0
"""Seconds after which no replica may be there of a command that is gone."""


def make_shards(folder: Path, num_shards: int, num_samples: int) -> int:
    """Write the shards; returns how many samples they hold."""
    number = 0
    for shard in range(num_shards):
        size = num_samples * (TIMES_LARGER if shard == num_shards - 1 else 1)
        with TarWriter(folder / f"{shard:05}.tar") as tar:
            for _ in range(size):
                tar.write_sample(f"{number:06}", {"jpg": jpeg(number, 48), "txt": b"alt"})
                number += 1
    return number


def words_of(work: Path, out: Path, num_replicas: int, new_tokens: int) -> list[str]:
    sets = [*SETS, f"recaption.max_new_tokens={new_tokens}", f"engine.replicas={num_replicas}"]
    named = ["--shards", str(work / "data"), "--model", str(work / "model"), "--out", str(out), "--round", "1"]
    return [sys.executable, "-m", "vila2cli", "recaption", *named, *running.set_options(sets)]


def run(words: list[str]) -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, env=environment, stderr=subprocess.DEVNULL, check=False).returncode


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tar.gz")}


def shared_out(out: Path) -> dict[str, float]:
    """How long the work took, and how long it would have with the same work split evenly."""
    figures = [running.read_json(path) for path in out.glob("*.stats.json")]
    worked_s = sum(one["device_seconds"] for one in figures)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in log if "seconds" in line][-1]
    ideal_s = worked_s / NUM_REPLICAS
    return {
        "seconds": round(seconds, 2),
        "ideal_seconds": round(ideal_s, 2),
        "of_ideal": round(seconds / ideal_s, 3),
    }


def children_of(parent: int) -> list[int]:
    """The replicas of a command that runs."""
    try:
        listed = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return [int(one) for one in listed if b"ask.replica" in Path(f"/proc/{one}/cmdline").read_bytes()]
    except OSError:
        return []


def left_of(processes: set[int]) -> set[int]:
    """Those of the replicas that still run after a while."""
    end_s = time.monotonic() + LEFT_S
    while True:
        there = {one for one in processes if _is_replica(one)}
        if not there or time.monotonic() > end_s:
            return there
        time.sleep(0.02)


def _is_replica(process: int) -> bool:
    try:
        return b"ask.replica" in Path(f"/proc/{process}/cmdline").read_bytes()  # empty of one that has ended
    except OSError:
        return False


def attempt(words: list[str], kind: str, draw: random.Random, longest_s: float) -> dict[str, Any]:
    """Start the command, do to it what the trial says at a random moment, and wait until it is gone."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    seen: set[int] = set()
    start_s, after_s = time.monotonic(), draw.uniform(0, longest_s)
    while process.poll() is None and time.monotonic() - start_s < after_s:
        seen |= set(children_of(process.pid))
        time.sleep(0.01)
    if kind == "replica":
        while process.poll() is None and not (there := children_of(process.pid)):
            time.sleep(0.01)
        if process.poll() is None:
            os.kill(draw.choice(there), signal.SIGKILL)
    elif process.poll() is None:
        process.send_signal(signal.Signals[kind])
    while process.poll() is None:
        seen |= set(children_of(process.pid))
        time.sleep(0.01)
    return {"kind": kind, "after_s": round(after_s, 2), "code": process.returncode, "left": len(left_of(seen))}


def trials(work: Path, alone: dict[str, bytes], num: int, new_tokens: int, seed: int) -> list[dict[str, Any]]:
    """Every trial with what was wrong in it, "" for nothing."""
    found = []
    draw, longest_s = random.Random(seed), 1.0
    for number in range(num):
        out = work / f"trial-{number}"
        words = words_of(work, out, NUM_REPLICAS, new_tokens)
        if number == 0:  # how long it takes here undisturbed
            start_s = time.monotonic()
            run(words_of(work, work / "undisturbed", NUM_REPLICAS, new_tokens))
            longest_s = time.monotonic() - start_s
        row = attempt(words, KINDS[number % len(KINDS)], draw, longest_s)
        written = tars(out)
        wrong = [f"{name} is another" for name, data in written.items() if alone[name] != data]
        wrong += ["processes are left"] * bool(row["left"])
        expected = {"replica": (0,), "SIGKILL": (0, -9), "SIGTERM": (0, 75, -15), "SIGINT": (0, 75, -2, 130)}
        if row["code"] not in expected[row["kind"]]:
            wrong.append(f"it ended with {row['code']}")
        if (code := run(words)) != 0 or tars(out) != alone:
            wrong.append(f"run again it ended with {code}, or the layer is another")
        done = sum(running.read_json(path)["in"] for path in out.glob("*.stats.json"))
        row |= {"shards_before": len(written), "samples": done, "wrong": "; ".join(wrong)}
        print(json.dumps(row), flush=True)
        found.append(row)
    return found


def main() -> int:
    parser = running.parser_of(__doc__, "replicas")
    parser.add_argument("--work", type=Path, default=Path("runs/replicas"))
    parser.add_argument("--num-shards", type=int, default=40)
    parser.add_argument("--num-samples", type=int, default=32, help="of a shard; one holds ten times as many")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--trials", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = running.parse(parser, num_shards=4, num_samples=2, new_tokens=4)
    work: Path = options.work
    (work / "data").mkdir(parents=True, exist_ok=True)
    num_samples = make_shards(work / "data", options.num_shards, options.num_samples)
    if not (work / "model").is_dir():
        make_model(work / "model")
    results: dict[str, Any] = {
        "machine": machine(),
        "num_shards": options.num_shards,
        "num_samples": num_samples,
    }
    for name, num_replicas in (("one", 1), ("two", NUM_REPLICAS)):
        if code := run(words_of(work, work / name, num_replicas, options.new_tokens)):
            sys.exit(f"vila2 recaption ended with {code}")
    results |= {"equal": tars(work / "one") == tars(work / "two"), "shared_out": shared_out(work / "two")}
    print(json.dumps(results["shared_out"]), flush=True)
    rows = trials(work, tars(work / "one"), options.trials, options.new_tokens, options.seed)
    wrong = [row for row in rows if row["wrong"]]
    results |= {"num_trials": len(rows), "num_wrong": len(wrong), "trials": rows}
    write_results(options.out, results, work)
    return 1 if wrong or not results["equal"] else 0


if __name__ == "__main__":
    sys.exit(main())
