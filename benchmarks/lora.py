"""What three LoRA specialists cost in one pass over the images, beside three passes.

The specialists are trained as adapters over one checkpoint of the embedded world; then rows take turns,
in another order every time, each from `vila2 specialize --relabel` to finished layers:
  together           the three adapters in one engine and one pass
  separate-adapters  one adapter after the other, an engine and a pass for each
  separate-merged    one checkpoint after the other that an adapter is merged into: no adapters at all
Wall time is of the commands with the start of Python and engine; without it, what the layers are charged.
Each is measured on one shard and on all: the fewer images a worker is given, the more a start weighs. Figures
are medians; answers are compared with those of the other rows, image by image.

    python benchmarks/lora.py
    python benchmarks/lora.py --base runs/world/round3/pretrain --data data/world --engine hf --num-shards 2
"""

import argparse
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import running
from durability import make_model
from recaption import versions
from rounds import SPECIALISTS, Run
from running import RECIPE, REPO, read_json, samples_of, write_results
from tables import lora as lora_table

ROWS = ("together", "separate-adapters", "separate-merged")
SEED0 = REPO / "runs" / "benchmark-rounds" / "seed0"
MOST = 0.6
"""The share of three passes that one may cost."""

Answers = dict[tuple[str, str], str]


@dataclass(frozen=True)
class Measured:
    """Seconds of a row's commands in all, and of asking alone."""

    seconds: float
    asking_s: float
    num_images: int
    num_answers: int
    num_tokens: int


@dataclass(frozen=True)
class Work:
    """Where things lie, and what every command is told."""

    base: Path
    data: Path
    work: Path
    sets: tuple[str, ...]

    def specialist(self, name: str) -> Path:
        return self.work / "specialists" / name

    def vila2(self, *words: str) -> float:
        """Run `vila2 specialize`; returns its seconds."""
        command = ["specialize", *words, "--recipe", str(RECIPE)]
        return running.vila2(command, self.sets, log=self.work / "commands.log")

    def train(self) -> None:
        """The specialists that are not there yet."""
        for name in SPECIALISTS:
            if not self.specialist(name).exists():
                self.vila2("--name", name, "--model", str(self.base), "--out", str(self.specialist(name)))

    def measure(self, row: str, num_shards: int) -> tuple[Measured, Answers]:
        """One row from nothing to finished layers over the first of the shards, 0 for all."""
        out = self.work / row
        shutil.rmtree(out, ignore_errors=True)
        shards = sorted(map(str, (self.data / "pretrain").glob("*.tar")))[: num_shards or None]
        words = [word for shard in shards for word in ("--shards", shard)]
        models = {
            name: str(self.specialist(name) / ("" if row == "separate-merged" else "adapter"))
            for name in SPECIALISTS
        }
        if row == "together":
            named = [word for name in SPECIALISTS for word in ("--name", name, "--model", models[name])]
            seconds = self.vila2("--relabel", *named, *words, "--out", str(out))
        else:
            seconds = sum(
                self.vila2(
                    "--relabel", "--name", name, "--model", models[name], *words, "--out", str(out / name)
                )
                for name in SPECIALISTS
            )
        summaries = [read_json(out / name / "summary.json") for name in SPECIALISTS]
        found = answers(out)
        asking_s = sum(summary["cost"]["seconds"] for summary in summaries)
        num_images, num_tokens = summaries[0]["in"], sum(summary["tokens"] for summary in summaries)
        return Measured(seconds, asking_s, num_images, len(found), num_tokens), found


def answers(out: Path) -> Answers:
    """What was kept of every specialist's answers, by its name and the sample's key."""
    return {
        (name, sample.key): annotation.turns[1].text
        for name in SPECIALISTS
        for sample in samples_of(out / name)
        if (annotation := sample.annotation(name))
    }


def agreement(first: Answers, other: Answers) -> dict[str, Any]:
    """How many answers two rows share, of those that either has."""
    either = first.keys() | other.keys()
    same = sum(first.get(key) == other.get(key) for key in either)
    return {"same": same, "of": len(either), "share": round(same / len(either), 5) if either else None}


def compare(runs: dict[str, list[Measured]], found: dict[str, Answers]) -> dict[str, Any]:
    """The one pass against each of the others: ratios of median times, turn by turn as well, and answers."""
    result: dict[str, Any] = {}
    for row in ROWS[1:]:
        result[row] = {"answers": agreement(found["together"], found[row])}
        for figure in ("seconds", "asking_s"):
            pairs = [
                (getattr(one, figure), getattr(other, figure))
                for one, other in zip(runs["together"], runs[row], strict=True)
            ]
            ratio = median(one for one, _ in pairs) / median(other for _, other in pairs)
            turns = sorted(round(one / other, 3) for one, other in pairs)
            result[row][figure] = {"ratio": round(ratio, 3), "turns": turns}
    return result


def measure(work: Work, num_shards: int, repeats: int) -> dict[str, Any]:
    """All rows over so many shards, in turns."""
    runs: dict[str, list[Measured]] = {row: [] for row in ROWS}
    found: dict[str, Answers] = {}
    for turn in range(repeats):
        for row in ROWS if turn % 2 == 0 else ROWS[::-1]:
            measured, found[row] = work.measure(row, num_shards)
            runs[row].append(measured)
            print(f"{turn + 1}/{repeats} {row}: {measured.seconds:.1f} s", flush=True)
    medians = {
        row: {name: round(median(getattr(one, name) for one in all_of), 2) for name in asdict(all_of[0])}
        for row, all_of in runs.items()
    }
    rows = {row: medians[row] | {"runs": [asdict(one) for one in all_of]} for row, all_of in runs.items()}
    return {"rows": rows, "ratios": compare(runs, found)}


def parse() -> argparse.Namespace:
    parser = running.parser_of(__doc__, "lora")
    parser.add_argument("--base", type=Path, default=SEED0 / "runs" / "world" / "round3" / "pretrain")
    parser.add_argument("--data", type=Path, default=SEED0 / "data", help="folder that vila2 world wrote")
    parser.add_argument("--engine", choices=("vllm", "hf"), default="vllm")
    parser.add_argument(
        "--num-shards", type=int, nargs="+", default=[1, 0], help="shards asked about, 0 for all"
    )
    parser.add_argument("--rank", type=int, default=16, help="an eighth of the width of the world's LLM")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, default=REPO / "runs" / "benchmark-lora")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    return running.parse(parser, base=None, engine="hf", num_shards=[1], rank=2, repeats=1)


def prepare(options: argparse.Namespace) -> None:
    """The small base and world of --quick."""
    run = Run(0, options.work, RECIPE)
    run.vila2("world", "--out", str(run.data))
    options.base, options.data, options.sets = options.work / "base", run.data, [*options.sets, *running.WORLD]
    make_model(options.base)


def main() -> None:
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.quick:
        prepare(options)
    sets = ["specialize.lora=true", f"recaption.engine={options.engine}", "recaption.max_reject_rate=1"]
    for name in SPECIALISTS:
        data = f'["{options.data}/specialist-{name}/*.tar"]'
        sets += [f"specialists.{name}.data={data}", f"specialists.{name}.lora.rank={options.rank}"]
        sets += [f"specialists.{name}.lora.alpha={2.0 * options.rank}"]
    work = Work(options.base, options.data, options.work, (*sets, *options.sets))
    work.train()
    about = {
        "machine": versions(),
        "engine": options.engine,
        "rank": options.rank,
        "repeats": options.repeats,
        "most": MOST,
    }
    sizes: list[dict[str, Any]] = []
    for num_shards in options.num_shards:
        sizes.append(measure(work, num_shards, options.repeats))
        write_results(options.out, {**about, "sizes": sizes}, options.work)
    print(lora_table({**about, "sizes": sizes}))


if __name__ == "__main__":
    main()
