"""Does the perplexity filter prefer right captions, and does training on what it keeps help?

On the embedded world, whose scenes say what is true (score/caption.py). For every seed:
  scorer   round 0's model, trained on all alt-texts
  AUC      of each score against the oracle, for the noisy alt-texts and for the scorer's own
           recaptions; beside it that of drawing lots
  training from scratch on the kept half by perplexity (POINTS section 3.2), on the kept half by image
           gain, and on the random control of equal size (the control POINTS does not have)
Differences to the control are paired on the same questions; see INTERVALS for what their intervals cover.

    python benchmarks/filter.py --seeds 0 1 2
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import running
from auc import auc_interval
from repeats import compare_evals, t_interval
from rounds import Run, seed_parser, work_folder
from running import machine, read_json, write_results

from vila2cli.evaluation.predictions import differences
from vila2cli.score import find_scorer
from vila2cli.score.caption import FactCount, count_facts
from vila2cli.score.scorer import Vocabulary
from vila2cli.score.stats import Estimate, mean_of
from vila2cli.shards import open_source, read_shard
from vila2cli.text.compose import compose_caption
from vila2cli.text.prompts import stable_hash
from vila2cli.world.scenes import VOCABULARY

RANKS = ("perplexity", "text-perplexity", "image-gain")
ARMS = {
    "perplexity": "filter-perplexity",
    "image-gain": "filter-image-gain",
    "random": "filter-perplexity-random",
}
LOTS = "lots"
INTERVALS = {
    "t_interval": "95% by Student's t over the seeds, each with data, training and evaluation images of its "
    "own: what a repeat of the whole experiment would give",
    "image_bootstrap": "95% over evaluation images for these very models: it leaves out that another training "
    "run would have given other models",
}


def judged(layer: Path, captions: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], FactCount]]:
    """The scores of every sample of a filter layer beside what the oracle counts in its caption."""
    vocabulary = Vocabulary(**VOCABULARY)
    for shard in open_source([str(layer)]).shards:
        for sample in read_shard(shard, on_reject=lambda reject: None):
            annotation = sample.annotation("filter")
            caption = compose_caption(sample, captions)
            if annotation is not None and caption is not None and "perplexity" in annotation.scores:
                scores = {**annotation.scores, LOTS: stable_hash(LOTS, shard.name, sample.key)}
                yield scores, count_facts(caption, sample.meta["scene"], vocabulary)


def against_oracle(layer: Path, captions: tuple[str, ...]) -> dict[str, Any]:
    """AUC of each score, and how right the captions are before and after the filter."""
    rows = list(judged(layer, captions))
    # A caption is right when it states something and nothing in the scene contradicts it.
    is_right = [count.stated > 0 and count.contradicted == 0 for _, count in rows]
    figures: dict[str, Any] = {
        "num_captions": len(rows),
        "num_right": sum(is_right),
        "num_wrong": sum(count.contradicted > 0 for _, count in rows),
        "num_empty": sum(count.stated == 0 for _, count in rows),
        "right_against_wrong": {},
        "right_against_rest": {},
    }
    stating = [i for i, (_, count) in enumerate(rows) if count.stated > 0]
    for rank in (*RANKS, LOTS):
        sign = -1.0 if rank == "image-gain" else 1.0
        values = [sign * scores[rank.replace("-", "_")] for scores, _ in rows]
        only = [values[i] for i in stating], [is_right[i] for i in stating]
        figures["right_against_wrong"][rank] = area(*only)
        figures["right_against_rest"][rank] = area(values, is_right)
    kept = [right for (scores, _), right in zip(rows, is_right, strict=True) if scores["keep"]]
    figures["share_right"] = {"all": share(is_right), "kept": share(kept)}
    return figures


def share(is_right: list[bool]) -> float | None:
    """How many are right of all; None of none."""
    return sum(is_right) / len(is_right) if is_right else None


def area(values: list[float], is_right: list[bool]) -> dict[str, float] | None:
    """The AUC with its interval; None where everything is right, or nothing."""
    return auc_interval(values, is_right).to_json("auc") if len(set(is_right)) == 2 else None


def filter_by(run: Run, rank: str, out: str, *options: str, captions: str, shards: Path | None = None) -> Path:
    """Run the stage with round 0's model; returns the filter layer."""
    source = (str(shards),) if shards else (f"{run.data}/pretrain/*.tar",)
    sets = (
        "filter.engine=hf",
        'filter.scores=["perplexity", "text-perplexity"]',
        f'filter.captions=["{captions}"]',
        f"filter.rank_by={rank}",
        *(
            ()
            if any(text.startswith("filter.keep_share=") for text in run.sets)
            else ("filter.keep_share=0.5",)
        ),
    )
    folder = run.dir / out
    model = str(run.dir / "round0" / "sft")
    run.vila2("filter", "--model", model, "--shards", *source, "--out", str(folder), *options, sets=sets)
    return folder


def measure(run: Run) -> dict[str, Any]:
    """Run one seed and collect its figures."""
    run.rounds(0)
    run.vila2("recaption", "--round", "1")
    by_perplexity = filter_by(run, "perplexity", ARMS["perplexity"], "--random", captions="original")
    by_gain = filter_by(run, "image-gain", ARMS["image-gain"], captions="original")
    recaptions = run.dir / "round1" / "recaption"
    own = filter_by(run, "perplexity", "filter-recaption", captions="recaption", shards=recaptions)
    epochs = run.setting("round0", "epochs")
    for arm, layer in ARMS.items():
        if not (run.dir / f"arm-{arm}" / "eval" / "metrics.json").exists():
            run.control(f"arm-{arm}", run.dir / layer, "original", epochs)
    evals = {arm: run.dir / f"arm-{arm}" / "eval" for arm in ARMS}
    return {
        "seed": run.seed,
        "alt_text": against_oracle(by_perplexity, ("original",)),
        "alt_text_by_gain": against_oracle(by_gain, ("original",))["share_right"],
        "recaption": against_oracle(own, ("recaption",)),
        "filters": {arm: read_json(run.dir / layer / "summary.json") for arm, layer in ARMS.items()},
        "train_tokens": {arm: run.num_tokens(f"arm-{arm}") for arm in ARMS},
        "metrics": {arm: run.metrics(f"arm-{arm}") for arm in ARMS},
        "differences": {
            f"{arm} - random": compare_evals(evals["random"], evals[arm]) for arm in ARMS if arm != "random"
        },
    }


def pooled(runs: list[Run]) -> dict[str, Any]:
    """Each difference to the control over the seeds."""
    found: dict[str, Any] = {"intervals": INTERVALS}
    for arm in (arm for arm in ARMS if arm != "random"):
        by_seed = [_estimates(run, arm) for run in runs]
        headlines = [
            mean_of([one[task][_headline(run, task)] for task in one if _is_qa(run, task)])
            for run, one in zip(runs, by_seed, strict=True)
        ]
        found[f"{arm} - random"] = {
            "qa_mean": over_seeds(headlines),
            "tasks": {
                task: {metric: over_seeds([one[task][metric] for one in by_seed]) for metric in estimates}
                for task, estimates in by_seed[0].items()
            },
        }
    return found


def over_seeds(estimates: Sequence[Estimate]) -> dict[str, Any]:
    """The mean of one difference, that of every seed, and both intervals."""
    mean = mean_of(estimates)
    values = [one.value for one in estimates]
    repeats, images = t_interval(values), mean.interval()
    return {
        "difference": mean.value,
        "by_seed": values,
        "t_interval": None if repeats is None else [repeats.low, repeats.high],
        "image_bootstrap": [images.low, images.high],
    }


def _estimates(run: Run, arm: str) -> dict[str, dict[str, Estimate]]:
    first, second = (run.dir / f"arm-{name}" / "eval" for name in ("random", arm))
    tasks = run.metrics("arm-random")["tasks"]
    return {
        task: differences(first / task, second / task, find_scorer(tasks[task]["scorer"])) for task in tasks
    }


def _headline(run: Run, task: str) -> str:
    return str(run.metrics("arm-random")["tasks"][task]["headline"])


def _is_qa(run: Run, task: str) -> bool:
    return bool(run.metrics("arm-random")["tasks"][task]["answer_type"] != "caption")


def main() -> None:
    parser = seed_parser(__doc__, "filter", "benchmark-filter")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for vila2")
    options = running.parse(parser, seeds=[0])
    runs: list[Run] = []
    results = []
    for seed in options.seeds:
        run = Run(seed, work_folder(options.work, options.recipe, options.set), options.recipe)
        run.sets += options.set
        results.append(measure(run))
        runs.append(run)
        figures = {"machine": machine(), "sets": options.set, "seeds": results, "pooled": pooled(runs)}
        write_results(options.out, figures, options.work)


if __name__ == "__main__":
    main()
