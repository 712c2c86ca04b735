"""The published table of rounds: three seeds of the embedded world, each with two controls.

For every seed: rounds 0 to 3, then from scratch on the same images
  more-epochs    original captions only, as many passes as give round 1's number of training tokens
                 (VILA^2 section 3.5, table 9: is it only the extra compute?)
  recaption-only round 1's captions with the original dropped (VILA^2 table 2, last rows)
Differences are paired on the same questions, with 95% bootstrap intervals over images.

    python benchmarks/rounds.py --seeds 0 1 2 --specialists
    python benchmarks/rounds.py --quick
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import running
from repeats import compare_evals
from running import RECIPE, REPO, machine, read_json, write_results

from vila2cli.run.folder import digest

SOURCES = ("pretrain", "interleaved", "sft", "text")
SPECIALISTS = ("spatial", "grounding", "ocr")


class Run:
    """One seed's run folder and data folder, worked on by the command line alone."""

    def __init__(self, seed: int, work: Path, recipe: Path) -> None:
        self.seed, self.recipe = seed, recipe
        self.data = work / f"seed{seed}" / "data"
        self.runs = work / f"seed{seed}" / "runs"
        self.dir = self.runs / "world"
        self.sets = [
            f"seed={seed}",
            f"world.seed={seed}",
            f"runs_dir={self.runs}",
            *(f'data.{name}=["{self.data}/{name}/*.tar"]' for name in SOURCES),
            f'eval.tasks=["{self.data}/eval/*"]',
            *(f'specialists.{name}.data=["{self.data}/specialist-{name}/*.tar"]' for name in SPECIALISTS),
            *(running.WORLD if running.is_quick() else ()),
        ]

    def vila2(self, *words: str, sets: tuple[str, ...] = ()) -> float:
        """Run a command; returns its seconds."""
        return running.vila2((*words, "--recipe", str(self.recipe)), (*self.sets, *sets))

    def rounds(self, num: int) -> dict[str, float]:
        """Everything `make roundN` runs, with the seconds of each stage."""
        seconds = {}
        if not (self.data / "world.json").exists():
            seconds["world"] = self.vila2("world", "--out", str(self.data))
        for n in range(num + 1):
            for stage in ("recaption", "pretrain", "sft", "eval", "judge"):
                if n or stage not in ("recaption", "judge"):
                    seconds[f"round{n}/{stage}"] = self.vila2(stage, "--round", str(n))
        return seconds

    def control(self, name: str, shards: Path | None, captions: str, epochs: float) -> Path:
        """Pretrain from scratch another way, then SFT and eval as in every round; returns the eval folder."""
        out = self.dir / name
        sets = (f'pretrain.main.captions=["{captions}"]', f"pretrain.main.epochs={epochs:.3f}")
        source = ("--shards", str(shards)) if shards else ()
        self.vila2("pretrain", *source, "--out", str(out / "pretrain"), sets=sets)
        self.vila2("sft", "--model", str(out / "pretrain"), "--out", str(out / "sft"))
        self.vila2("eval", "--model", str(out / "sft"), "--out", str(out / "eval"))
        return out / "eval"

    def controls(self) -> None:
        epochs = self.setting("round0", "epochs") * self.num_tokens("round1") / self.num_tokens("round0")
        self.control("more-epochs", None, "original", epochs)
        layer = self.dir / "round1" / "recaption"
        self.control("recaption-only", layer, "recaption", self.setting("round1", "epochs"))

    def specialists(self) -> dict[str, float]:
        seconds = {}
        for name in SPECIALISTS:
            seconds[f"{name}/train"] = self.vila2("specialize", "--name", name)
            seconds[f"{name}/relabel"] = self.vila2("specialize", "--name", name, "--relabel")
        for stage in ("pretrain", "sft", "eval"):
            seconds[f"final/{stage}"] = self.vila2(stage, "--round", "final")
        return seconds

    def num_tokens(self, name: str) -> int:
        return int(self.lineage(name)["phases"][-1]["num_tokens"])

    def setting(self, name: str, key: str) -> float:
        return float(self.lineage(name)["settings"]["main"][key])

    def lineage(self, name: str) -> dict[str, Any]:
        return dict(read_json(self.dir / name / "pretrain" / "vila2.json"))

    def metrics(self, name: str) -> dict[str, Any]:
        return dict(read_json(self.dir / name / "eval" / "metrics.json"))

    def difference(self, old: str, new: str) -> dict[str, Any]:
        return compare_evals(self.dir / old / "eval", self.dir / new / "eval")


def work_folder(work: Path, recipe: Path, sets: Sequence[str] = ()) -> Path:
    """Where runs with these settings lie, apart from those with others."""
    if not sets and recipe.resolve() == RECIPE:
        return work
    return work / digest([recipe.read_text(), *sets])[:12]


def measure(run: Run, num_rounds: int, *, specialists: bool) -> dict[str, Any]:
    """Run one seed and collect its figures."""
    seconds = run.rounds(num_rounds)
    run.controls()
    names = [f"round{n}" for n in range(num_rounds + 1)] + ["more-epochs", "recaption-only"]
    pairs = [("round0", "round1"), ("round1", f"round{num_rounds}"), ("round0", "more-epochs")]
    pairs += [("more-epochs", "round1"), ("recaption-only", "round1")]
    if specialists:
        seconds |= run.specialists()
        names.append("final")
        pairs.append((f"round{num_rounds}", "final"))
    return {
        "seed": run.seed,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "metrics": {name: run.metrics(name) for name in names},
        "differences": {f"{new} - {old}": run.difference(old, new) for old, new in pairs},
    }


def seed_parser(description: str | None, name: str, folder: str) -> argparse.ArgumentParser:
    """The parser of a benchmark over seeds, which works in a folder of runs."""
    parser = running.parser_of(description, name)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--work", type=Path, default=REPO / "runs" / folder)
    return parser


def main() -> None:
    parser = seed_parser(__doc__, "rounds", "benchmark-rounds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--specialists", action="store_true", help="also the final model of each seed")
    options = running.parse(parser, seeds=[0], rounds=1)
    results = []
    for seed in options.seeds:
        run = Run(seed, options.work, options.recipe)
        results.append(measure(run, options.rounds, specialists=options.specialists))
        write_results(options.out, {"machine": machine(), "seeds": results}, options.work)


if __name__ == "__main__":
    main()
