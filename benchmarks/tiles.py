"""What tiles are worth on the fine print, at an equal budget of training tokens.

For every seed pages are drawn anew, and the same bases are trained on them three times, from scratch:
  none     a page is one square of 64 pixels
  dynamic  tiles by the class's own rule, which stretches: Idefics3's, of up to 2 x 2 tiles for max = 8
  catty    tiles in the page's own shape (POINTS section 3.1)
The recipe's epochs are catty's. The others, whose pages take fewer tokens, go over the same pages so many times
more that each phase of training sees as many tokens, image tokens counted. Differences are paired on the same
questions, with 95% bootstrap intervals over pages; over the seeds there is the mean with the bootstrap's
interval and, from three seeds on, Student's t. Settings were chosen on the dev split.

What is there already is not done again, so that the same command goes on where it was stopped.

    python benchmarks/tiles.py --seeds 0 1 2
    python benchmarks/tiles.py --quick
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import running
from repeats import t_interval
from rounds import seed_parser
from running import REPO, machine, read_json, samples_of, write_results
from tables import tiles as tiles_table

from vila2cli.evaluation.predictions import differences, shared_tasks
from vila2cli.score.stats import Estimate, mean_of
from vila2cli.settings.recipe import load_recipe

RECIPE = REPO / "recipes" / "fine-print.toml"
FOLDERS = ("pretrain", "sft")
PHASES = {"pretrain.align": "pretrain", "pretrain.main": "pretrain", "sft": "sft"}
"""What each phase of training is trained on."""
OBJECTS = ("colour", "shape", "existence")
PAIRS = (("none", "dynamic"), ("dynamic", "catty"), ("none", "catty"))
COUNTED = 200
"""Pages whose tokens are counted."""
QUICK = (
    *(f"world.num_{name}=8" for name in ("pretrain", "sft", "specialist")),
    *(f"world.num_{name}=4" for name in ("dev", "eval")),
    *(f"{phase}.epochs=1" for phase in PHASES),
    "eval.max_new_tokens=2",
    "eval.num_bootstrap=20",
)
Tokens = dict[str, dict[str, float]]


def arm_sets(arm: str, most: int) -> tuple[str, ...]:
    return () if arm == "none" else (f'base.tiles={{method = "{arm}", max = {most}}}',)


class Seed:
    """One seed's pages and its models, worked on by the command line alone."""

    def __init__(self, seed: int, work: Path, recipe: Path, sets: Sequence[str]) -> None:
        self.seed, self.recipe = seed, recipe
        self.folder = work / f"seed{seed}"
        self.data = self.folder / "data"
        self.sets = [
            f"seed={seed}",
            f"world.seed={seed}",
            f"runs_dir={self.folder / 'runs'}",
            *(f'data.{name}=["{self.data}/{name}/*.tar"]' for name in FOLDERS),
            f'eval.tasks=["{self.data}/eval/*"]',
            *sets,
        ]

    def vila2(self, *words: str, sets: Sequence[str] = ()) -> float:
        """Run a command; returns its seconds."""
        return running.vila2((*words, "--recipe", str(self.recipe)), (*self.sets, "base.tiles={}", *sets))

    def draw(self) -> None:
        if not (self.data / "world.json").exists():
            self.vila2("world", "fine-print", "--out", str(self.data))

    def tokens(self, sets: Sequence[str]) -> dict[str, float]:
        """Mean tokens of a page with its text in each folder, and of its picture alone."""
        from vila2cli.model.build import build
        from vila2cli.model.chat import Chat
        from vila2cli.shards.sample import IMAGE_PLACEHOLDER, Turn
        from vila2cli.text.compose import Composition, conversations
        from vila2cli.train.data import decode_sample, encode_sample

        recipe = load_recipe(self.recipe, [*self.sets, "base.tiles={}", *sets])
        chat = Chat(build(recipe.base, seed=0)[1])
        alone = [Turn("user", IMAGE_PLACEHOLDER)]
        found: dict[str, list[int]] = {"picture": []}
        for folder in FOLDERS:
            lengths = found.setdefault(folder, [])
            for sample, _ in zip(samples_of(self.data / folder), range(COUNTED), strict=False):
                (turns,) = conversations(sample, Composition())
                lengths.append(len(encode_sample(sample, chat, turns, recipe.sft.max_length).ids))
                images = decode_sample(sample, chat, recipe.data.max_pixels, recipe.data.draft)
                whole, brief = (len(chat.prompt_ids(alone, images, expand=way)) for way in (True, False))
                found["picture"].append(whole - brief + 1)
        return {name: mean(values) for name, values in found.items()}

    def train(self, arm: str, sets: Sequence[str]) -> dict[str, Any]:
        """Pretrain, tune and evaluate an arm; returns its figures."""
        out = self.folder / arm
        steps = {
            "pretrain": ("pretrain",),
            "sft": ("sft", "--model", str(out / "pretrain")),
            "eval": ("eval", "--model", str(out / "sft")),
        }
        for name, words in steps.items():
            if not (out / name / ("metrics.json" if name == "eval" else "vila2.json")).exists():
                self.vila2(*words, "--out", str(out / name), sets=sets)
        trained = [read_json(out / name / "vila2.json") for name in FOLDERS]
        metrics = read_json(out / "eval" / "metrics.json")
        seconds = {one["stage"]: one["seconds"] for one in trained}
        seconds["eval"] = sum(task["seconds"] for task in metrics["tasks"].values())
        return {
            "training_tokens": sum(phase["num_tokens"] for one in trained for phase in one["phases"]),
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
            "metrics": metrics,
        }

    def difference(self, old: str, new: str, num_bootstrap: int) -> dict[str, Estimate]:
        """The second arm's headline less the first's, of every task and of those about objects."""
        first, second = (self.folder / arm / "eval" for arm in (old, new))
        found = {}
        for name, scorer in shared_tasks(first, second):
            paired = differences(
                first / name, second / name, scorer, num_bootstrap=num_bootstrap, seed=self.seed
            )
            found[name.removeprefix("fine-print-")] = paired[scorer.headline]
        return {**found, "objects": mean_of([found[name] for name in OBJECTS])}


def budget(tokens: Tokens, epochs: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The epochs of each arm's phases with which all see as many tokens as catty does."""
    most = tokens["catty"]
    return {
        arm: {phase: epochs[phase] * most[folder] / mine[folder] for phase, folder in PHASES.items()}
        for arm, mine in tokens.items()
    }


def over_seeds(found: Sequence[dict[str, Estimate]]) -> dict[str, Any]:
    """The mean of each difference over the seeds, with both intervals."""
    summary = {}
    for name in found[0]:
        summary[name] = mean_of([one[name] for one in found]).interval().to_json("difference")
        if len(found) > 2 and (spread := t_interval([one[name].value for one in found])):
            summary[name]["t_interval"] = [spread.low, spread.high]
    return summary


def main() -> None:
    parser = seed_parser(__doc__, "tiles", "benchmark-tiles")
    parser.set_defaults(recipe=RECIPE)
    parser.add_argument("--max", type=int, default=8, help="base.tiles.max of both rules")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    options = running.parse(parser, seeds=[0])
    sets = [*(QUICK if options.quick else ()), *options.sets]
    recipe = load_recipe(options.recipe, sets)
    epochs = {
        "pretrain.align": recipe.pretrain.align.epochs,
        "pretrain.main": recipe.pretrain.main.epochs,
        "sft": recipe.sft.epochs,
    }
    results: list[dict[str, Any]] = []
    pairs: dict[str, list[dict[str, Estimate]]] = {f"{new} - {old}": [] for old, new in PAIRS}
    for number in options.seeds:
        seed = Seed(number, options.work, options.recipe, sets)
        seed.draw()
        arms = {arm: arm_sets(arm, options.max) for arm in ("none", "dynamic", "catty")}
        tokens = {arm: seed.tokens(own) for arm, own in arms.items()}
        passes = budget(tokens, epochs)
        trained = {
            arm: seed.train(arm, [*own, *(f"{phase}.epochs={num:.4f}" for phase, num in passes[arm].items())])
            for arm, own in arms.items()
        }
        for old, new in PAIRS:
            pairs[f"{new} - {old}"].append(seed.difference(old, new, recipe.eval.num_bootstrap))
        results.append({"seed": number, "tokens": tokens, "epochs": passes, "arms": trained})
        report = {
            "machine": machine(),
            "max": options.max,
            "sets": sets,
            "differences": {name: over_seeds(found) for name, found in pairs.items()},
            "by_seed": {
                name: [
                    {task: one.interval().to_json("difference") for task, one in each.items()} for each in found
                ]
                for name, found in pairs.items()
            },
            "seeds": results,
        }
        write_results(options.out, report, options.work)
    print(tiles_table(report))


if __name__ == "__main__":
    main()
