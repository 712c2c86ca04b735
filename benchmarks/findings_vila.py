"""VILA's three findings and POINTS' soups, as runs in the embedded world.

For every seed, from scratch each time:
  trained, frozen     the LLM trained or frozen in pretraining, at 0 and 4 shots (VILA section 3.1, table 1)
  documents, pairs    interleaved documents, or the same pictures and sentences as pairs, at 0 and 4 shots
                      (VILA section 3.2, table 3: MMC4 against MMC4-pairs)
  trained, no-text    text-only instructions blended into SFT or not, on a text-only task (VILA section 3.3,
                      table 4; the task is questions about scenes given in words, of the eval split)
  soups               SFT with each specialist's data added, averaged; against the best member, chosen on
                      the dev split as the soups are, reported on eval (POINTS section 3.3, table 4)
Differences are paired on the same questions, with 95% bootstrap intervals over images; over the seeds
there is the mean with its t interval.

What is there already is not done again, so that the same command goes on where it was stopped.

    python benchmarks/findings_vila.py --seeds 0 1 2
    python benchmarks/findings_vila.py --seeds 0 1 2 --quick    # about half an hour on two cores
"""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import running
from repeats import compare_evals, t_interval
from rounds import Run, seed_parser, work_folder
from running import machine, read_json, write_results

from vila2cli.run.folder import write_text
from vila2cli.shards import TarWriter, open_source, read_shard
from vila2cli.world.sayings import QUESTIONS, layout
from vila2cli.world.scenes import draw_scene

TEXT_SKILLS = ("existence", "colour", "shape", "size", "count", "place")
ADDED = ("spatial", "grounding", "ocr")
SIZES = {"pretrain": 2500, "interleaved": 1000, "specialist": 1000, "dev": 200, "eval": 500}
SMALLER = {"pretrain": 800, "interleaved": 400, "sft": 200, "specialist": 200, "dev": 100, "eval": 200}
"""Samples of the world by split, specialists' for each of them; the other splits are the recipe's."""
SOUPS = {"uniform": (), "maximum": ("soup.top=2",), "greedy": ()}


class Findings(Run):
    """One seed: variants of training, and their evaluations."""

    def __init__(self, seed: int, work: Path, recipe: Path, shots: Sequence[int], sets: Sequence[str]) -> None:
        super().__init__(seed, work, recipe)
        self.shots = shots
        self.sets += [f'soup.tasks=["{self.data}/dev/*"]', *sets]
        self.pairs, self.text_task = self.data / "interleaved-pairs", self.data / "text-task"
        self.seconds: dict[str, float] = {}

    def timed(self, out: Path, *words: str, sets: tuple[str, ...] = ()) -> None:
        """Run a command that writes `out`, and note its seconds."""
        seconds = self.vila2(*words, "--out", str(out), sets=sets)
        self.seconds[str(out.relative_to(self.data.parent))] = round(seconds, 1)

    def prepare(self, num_text: int) -> None:
        """The world, its documents as pairs, and the text-only task."""
        if not (self.data / "world.json").exists():
            self.timed(self.data, "world")
        if not self.pairs.exists():
            write_pairs(self.data / "interleaved", self.pairs)
        if not (self.text_task / "task.toml").exists():
            write_text_task(self.text_task, num_text, self.seed)

    def train(
        self,
        name: str,
        *,
        shards: Path | None = None,
        pretrain: tuple[str, ...] = (),
        sft: tuple[str, ...] = (),
        start: str | None = None,
        sft_shards: Sequence[Path] = (),
    ) -> None:
        """Pretrain (or take another variant's, `start`) and tune a variant."""
        out = self.dir / name
        if start is None and not (out / "pretrain").exists():
            source = ("--shards", str(shards)) if shards else ()
            self.timed(out / "pretrain", "pretrain", *source, sets=pretrain)
        if not (out / "sft").exists():
            model = self.dir / (start or name) / "pretrain"
            added = ("--shards", *map(str, sft_shards)) if sft_shards else ()
            self.timed(out / "sft", "sft", "--model", str(model), *added, sets=sft)

    def evaluate(self, name: str, shots: Sequence[int]) -> None:
        model = self.dir / name / "sft"
        for num in shots:
            sets = (f"eval.num_shots={num}", f"eval.shots_dir={self.data}/dev") if num else ()
            self.timed(self.eval_dir(name, num), "eval", "--model", str(model), sets=sets)

    def evaluate_text(self, name: str) -> None:
        words = ("--model", str(self.dir / name / "sft"), "--tasks", str(self.text_task))
        self.timed(self.dir / name / "eval-text", "eval", *words)

    def soups(self, members: Sequence[str]) -> dict[str, Any]:
        """Average the members each way; returns what their lineage says of the selection."""
        paths = [str(self.dir / member / "sft") for member in members]
        made = {}
        for method, sets in SOUPS.items():
            out = self.dir / f"soup-{method}" / "sft"
            if not out.exists():
                self.timed(out, "soup", "--models", *paths, sets=(f'soup.method="{method}"', *sets))
            self.evaluate(f"soup-{method}", self.shots[:1])
            made[method] = read_json(out / "vila2.json")
        return made

    def eval_dir(self, name: str, shots: int) -> Path:
        return self.dir / name / f"eval-{shots}shot"

    def compared(self, old: str, new: str, shots: int) -> dict[str, Any]:
        return compare_evals(self.eval_dir(old, shots), self.eval_dir(new, shots))


def write_pairs(documents: Path, out: Path) -> None:
    """Each picture of the documents with the sentence before it, as a captioned pair."""
    for shard in open_source([str(documents)]).shards:
        with TarWriter(out / f"{shard.name}.tar") as tar:
            for sample in read_shard(shard, on_reject=lambda reject: None):
                document = sample.meta["interleaved"]
                before, images = "", iter(enumerate(sample.images))
                for text in document["texts"]:
                    if text is not None:
                        before = text
                        continue
                    number, image = next(images)
                    members = {image.extension: image.data, "txt": before.encode()}
                    tar.write_sample(f"{sample.key}-{number}", members)


def write_text_task(folder: Path, num: int, seed: int) -> None:
    """Questions with short answers about scenes of the eval split that are given in words."""
    random = Random(f"text task {seed}")
    with TarWriter(folder / "000000.tar") as tar:
        for index in range(num):
            scene = draw_scene(random, "eval")
            question, answer = QUESTIONS[random.choice(TEXT_SKILLS)](scene, random)
            words = " ".join(layout(scene))
            sample = {"question": f"layout [ {words} ]\n{question}", "answers": [answer]}
            tar.write_sample(f"{index:06d}", {"json": json.dumps(sample).encode()})
    table = 'name = "world-text"\nversion = 1\nanswer_type = "short"\nsplit = "eval"\n'
    write_text(folder / "task.toml", table)


def measure(run: Findings, *, num_text: int, has_soups: bool) -> dict[str, Any]:
    """Run one seed and collect its differences."""
    run.prepare(num_text)
    run.train("trained")
    run.train("frozen", pretrain=('pretrain.main.train=["projector"]',))
    alone = ("data.interleaved=[]",)
    run.train("documents", shards=run.data / "interleaved", pretrain=alone)
    run.train("pairs", shards=run.pairs, pretrain=alone)
    run.train("no-text", start="trained", sft=("data.text=[]",))
    for name in ("trained", "frozen", "documents", "pairs"):
        run.evaluate(name, run.shots)
    run.evaluate("no-text", run.shots[:1])
    found: dict[str, Any] = {}
    for shots in run.shots:
        found[f"trained - frozen, {shots} shots"] = run.compared("frozen", "trained", shots)
        found[f"documents - pairs, {shots} shots"] = run.compared("pairs", "documents", shots)
    for name in ("trained", "no-text"):
        run.evaluate_text(name)
    texts = [run.dir / name / "eval-text" for name in ("no-text", "trained")]
    found["text - no-text, text-only task"] = compare_evals(*texts)
    found["text - no-text, 0 shots"] = run.compared("no-text", "trained", run.shots[0])
    soups = measure_soups(run) if has_soups else {}
    return {"seed": run.seed, "differences": found, **soups, "seconds": run.seconds}


def measure_soups(run: Findings) -> dict[str, Any]:
    """Soups of the models that saw one specialist's data each, against the best of them on dev."""
    members = ["trained", *(f"plus-{name}" for name in ADDED)]
    for name in ADDED:
        shards = [run.data / "sft", run.data / f"specialist-{name}"]
        run.train(f"plus-{name}", start="trained", sft_shards=shards)
        run.evaluate(f"plus-{name}", run.shots[:1])
    made = run.soups(members)
    best = Path(next(iter(made["greedy"]["selection"]["scores"]))).parent.name
    shots = run.shots[0]
    return {
        "best_member": best,
        "soups": {
            name: {key: lineage[key] for key in ("parents", "selection")} for name, lineage in made.items()
        },
        "soup_differences": {
            f"{method} - best member": run.compared(best, f"soup-{method}", shots) for method in SOUPS
        },
    }


def over_seeds(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each question-answering difference over the seeds, with its t interval."""
    summary = {}
    for table in ("differences", "soup_differences"):
        for name in results[0].get(table, {}):
            values = [result[table][name]["qa_mean"]["difference"] for result in results]
            interval = t_interval(values)
            mean = sum(values) / len(values)
            summary[name] = {"difference": mean} if interval is None else interval.to_json("difference")
    return summary


def main() -> None:
    parser = seed_parser(__doc__, "findings_vila", "benchmark-findings-vila")
    parser.add_argument("--shots", type=int, nargs="+", default=[0, 4], help="sets eval.shots, 0 not at all")
    parser.add_argument("--smaller", action="store_true", help="a world of fewer pictures and questions")
    parser.add_argument("--text-questions", type=int, default=500)
    parser.add_argument("--no-soups", action="store_true")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    options = running.parse(parser, seeds=[0], shots=[0, 1], text_questions=4)
    sizes = {} if options.quick else SMALLER if options.smaller else SIZES
    sets = [*(f"world.num_{name}={num}" for name, num in sizes.items()), *options.sets]
    work = work_folder(options.work, options.recipe, [*sets, str(options.text_questions)])
    results = []
    for seed in options.seeds:
        run = Findings(seed, work, options.recipe, options.shots, sets)
        results.append(measure(run, num_text=options.text_questions, has_soups=not options.no_soups))
        report = {"machine": machine(), "sets": sets, "over_seeds": over_seeds(results), "seeds": results}
        write_results(options.out, report, options.work)


if __name__ == "__main__":
    main()
