"""What tiles are worth on the fine print, at an equal budget of training tokens.

A model is trained here that reads single squares: on clippings of one square, and on pages in one. It is shown
pages in three ways. For every seed pages are drawn anew, and it is tuned on them three times:
  none     a page is one square of 64 pixels
  dynamic  tiles by the class's own rule, which stretches: Idefics3's, of up to 2 x 2 tiles for max = 8
  catty    tiles in the page's own shape (POINTS section 3.1)
The recipe's epochs are catty's. The others, whose pages take fewer tokens, go over the same pages so many times
more that they see as many tokens, image tokens counted. Differences are paired on the same questions, with 95%
bootstrap intervals over pages; over the seeds there is the mean with the bootstrap's interval and, from three
seeds on, Student's t. Settings were chosen on the dev split of another seed.

The catty checkpoints are asked once more by the class's own rule, as tools that do not know CATTY's show pages.
What is there already is not done again, so that the same command goes on where it was stopped.

    python benchmarks/tiles.py --seeds 0 1 2
    python benchmarks/tiles.py --start CHECKPOINT    # in place of the model that is trained here
    python benchmarks/tiles.py --quick
"""

import json
import shutil
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
from vila2cli.model.tiles import KEY
from vila2cli.score.stats import Estimate, mean_of
from vila2cli.settings.recipe import Recipe, load_recipe
from vila2cli.shards.annotations import read_annotations

RECIPE = REPO / "recipes" / "fine-print.toml"
ARMS = ("none", "dynamic", "catty")
OBJECTS = ("colour", "shape", "existence")
PAIRS = (("none", "dynamic"), ("dynamic", "catty"), ("none", "catty"))
STOCK_PAIRS = (("catty", "stock"),)
COUNTED = 200
"""Pages whose tokens are counted."""
START_WORLD = (
    "world.seed=77",  # of which the dev split was used to choose settings, and no seed is compared
    "world.num_pretrain=1600",
    *(f"world.num_{name}=1" for name in ("sft", "specialist", "dev", "eval")),
)
START = ("pretrain.main.epochs=0.75", *(f"pretrain.{name}.batch_size=16" for name in ("align", "main")))
"""The clippings and pages that the model which reads one square is trained on, and how."""
QUICK = (
    *(f"world.num_{name}=8" for name in ("pretrain", "sft", "specialist")),
    *(f"world.num_{name}=4" for name in ("dev", "eval")),
    "sft.epochs=1",
    "eval.max_new_tokens=2",
    "eval.num_bootstrap=20",
)


def arm_sets(arm: str, most: int) -> list[str]:
    return ["base.tiles={}" if arm == "none" else f'base.tiles={{method = "{arm}", max = {most}}}']


def write_tiled(start: Path, recipe: Recipe, out: Path) -> None:
    """The weights of a checkpoint in one that is shown pictures as the recipe says, with the tokens for it."""
    from vila2cli.model.build import build
    from vila2cli.model.saving import save_checkpoint
    from vila2cli.train.job import load_checkpoint

    old, old_processor = load_checkpoint(start)
    model, processor = build(recipe.base, seed=recipe.seed)
    num_known, new = len(old_processor.tokenizer), model.state_dict()
    for name, tensor in old.state_dict().items():
        is_by_token = name.endswith(("embed_tokens.weight", "lm_head.weight"))
        rows = slice(num_known) if is_by_token else slice(None)
        new[name][rows] = tensor[rows]
    save_checkpoint(model, processor, out)


CAPTIONS = ("recaption.retry_temperatures=[]", "recaption.max_reject_rate=1.0")


class Seed:
    """One seed's pages and its models, worked on by the command line alone."""

    def __init__(self, seed: int, work: Path, recipe: Path, sets: Sequence[str]) -> None:
        self.seed, self.recipe = seed, recipe
        self.folder = work / f"seed{seed}"
        self.data = self.folder / "data"
        self.sets = [
            f"seed={seed}",
            f"world.seed={seed}",
            *(f"world.num_{name}=1" for name in ("pretrain", "specialist", "dev")),  # not looked at
            f"runs_dir={self.folder / 'runs'}",
            f'data.sft=["{self.data}/sft/*.tar"]',
            f'eval.tasks=["{self.data}/eval/*"]',
            *sets,
        ]

    def vila2(self, *words: str, sets: Sequence[str] = ()) -> float:
        """Run a command; returns its seconds."""
        return running.vila2((*words, "--recipe", str(self.recipe)), (*self.sets, *sets))

    def draw(self) -> None:
        if not (self.data / "world.json").exists():
            self.vila2("world", "fine-print", "--out", str(self.data))

    def tokens(self, start: Path) -> dict[str, float]:
        """Mean tokens of a page with its text, and of its picture alone, as a checkpoint is shown them."""
        from vila2cli.model.chat import Chat
        from vila2cli.model.loading import load_processor
        from vila2cli.shards.sample import IMAGE_PLACEHOLDER, Turn
        from vila2cli.train.data import decode_sample, encode_sample

        recipe = load_recipe(self.recipe, self.sets)
        chat = Chat(load_processor(start))
        alone = [Turn("user", IMAGE_PLACEHOLDER)]
        samples, pictures = [], []
        for sample, _ in zip(samples_of(self.data / "sft"), range(COUNTED), strict=False):
            samples.append(len(encode_sample(sample, chat, sample.turns, recipe.sft.max_length).ids))
            images = decode_sample(sample, chat, recipe.data.max_pixels, recipe.data.draft)
            whole, brief = (len(chat.prompt_ids(alone, images, expand=way)) for way in (True, False))
            pictures.append(whole - brief + 1)
        return {"sample": mean(samples), "picture": mean(pictures)}

    def train(self, arm: str, start: Path, epochs: float) -> dict[str, Any]:
        """Tune and evaluate an arm; returns its figures."""
        out = self.folder / arm
        if not (out / "sft" / "vila2.json").exists():
            sets = [f"sft.epochs={epochs:.4f}"]
            self.vila2("sft", "--model", str(start), "--out", str(out / "sft"), sets=sets)
        if not (out / "eval" / "metrics.json").exists():
            self.vila2("eval", "--model", str(out / "sft"), "--out", str(out / "eval"))
        trained, metrics = read_json(out / "sft" / "vila2.json"), read_json(out / "eval" / "metrics.json")
        answering = sum(task["seconds"] for task in metrics["tasks"].values())
        return {
            "epochs": epochs,
            "training_tokens": trained["phases"][0]["num_tokens"],
            "seconds": {"training": round(trained["seconds"], 1), "answering": round(answering, 1)},
            "metrics": metrics,
        }

    def by_the_stock_rule(self) -> dict[str, Any]:
        """What it costs to ask the catty checkpoint with the tiles of tools that do not know its rule."""
        arm = self.folder / "catty"
        stock, known, captions = arm / "stock", arm / "captions", arm / "stock-captions"
        if not (stock / "processor_config.json").exists():
            shutil.copytree(arm / "sft", stock, dirs_exist_ok=True)
            path = stock / "processor_config.json"
            told = read_json(path)
            del told["image_processor"][KEY]
            path.write_text(json.dumps(told, indent=2))
        if not (self.folder / "stock" / "eval" / "metrics.json").exists():
            self.vila2("eval", "--model", str(stock), "--out", str(self.folder / "stock" / "eval"))
        for model, out in ((arm / "sft", known), (stock, captions)):
            if not (out / "summary.json").exists():
                shards = str(self.data / "eval" / "ocr" / "*.tar")
                words = ("recaption", "--model", str(model), "--shards", shards, "--out", str(out))
                self.vila2(*words, sets=CAPTIONS)
        one, other = ({id: made.text for id, made in read_annotations(out)} for out in (known, captions))
        differing = sum(text != other.get(id) for id, text in one.items())
        metrics = read_json(self.folder / "stock" / "eval" / "metrics.json")
        return {"captions": len(one), "differing": differing, "metrics": metrics}

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
    parser.add_argument("--start", type=Path, help="the checkpoint that is tuned; one is trained by default")
    parser.add_argument("--max", type=int, default=8, help="base.tiles.max of both rules")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    options = running.parse(parser, seeds=[0])
    sets = [*(QUICK if options.quick else ()), *options.sets]
    recipe = load_recipe(options.recipe, sets)
    start = options.start or train_start(options.work, options.recipe, sets)
    results: list[dict[str, Any]] = []
    pairs: dict[str, list[dict[str, Estimate]]] = {f"{new} - {old}": [] for old, new in (*PAIRS, *STOCK_PAIRS)}
    starts = {}
    for arm in ARMS:
        starts[arm] = options.work / "starts" / arm
        if not (starts[arm] / "config.json").exists():
            write_tiled(start, load_recipe(options.recipe, [*sets, *arm_sets(arm, options.max)]), starts[arm])
    for number in options.seeds:
        seed = Seed(number, options.work, options.recipe, sets)
        seed.draw()
        tokens = {arm: seed.tokens(starts[arm]) for arm in ARMS}
        passes = {arm: recipe.sft.epochs * tokens["catty"]["sample"] / tokens[arm]["sample"] for arm in ARMS}
        trained = {arm: seed.train(arm, starts[arm], passes[arm]) for arm in ARMS}
        for old, new in PAIRS:
            pairs[f"{new} - {old}"].append(seed.difference(old, new, recipe.eval.num_bootstrap))
        stock = seed.by_the_stock_rule()
        for old, new in STOCK_PAIRS:
            pairs[f"{new} - {old}"].append(seed.difference(old, new, recipe.eval.num_bootstrap))
        results.append({"seed": number, "tokens": tokens, "arms": trained, "stock": stock})
        write_results(options.out, report(results, pairs, options.max, sets), options.work)
    print(tiles_table(read_json(options.out)))


def train_start(work: Path, recipe: Path, sets: Sequence[str]) -> Path:
    """The model that reads one square, trained where it is not there yet."""
    data, out = work / "squares", work / "start"
    if not (data / "world.json").exists():
        running.vila2(
            ("world", "fine-print", "--recipe", str(recipe), "--out", str(data)), (*START_WORLD, *sets)
        )
    if not (out / "vila2.json").exists():
        shards = str(data / "pretrain" / "*.tar")
        words = ("pretrain", "--recipe", str(recipe), "--shards", shards, "--out", str(out))
        running.vila2(words, (*START, *sets, *arm_sets("none", 1), f"runs_dir={work / 'runs'}"))
    return out


def report(
    results: Sequence[dict[str, Any]],
    pairs: Mapping[str, list[dict[str, Estimate]]],
    most: int,
    sets: list[str],
) -> dict[str, Any]:
    """All figures; of differences the mean over the seeds, and each seed's."""
    by_seed = {
        name: [{task: one.interval().to_json("difference") for task, one in each.items()} for each in found]
        for name, found in pairs.items()
    }
    means = {name: over_seeds(found) for name, found in pairs.items()}
    return {
        "machine": machine(),
        "max": most,
        "sets": sets,
        "differences": means,
        "by_seed": by_seed,
        "seeds": list(results),
    }


if __name__ == "__main__":
    main()
