"""The prompt ablation of VILA^2 table 2 on the embedded world, and what n captions per image are worth.

Round 0's model captions the same images under each row of ROWS; the exact oracle counts the facts
in what it wrote, with 95% bootstrap intervals over images. With --train each row is pretrained from
scratch, tuned and evaluated as well; rows of TRAINED differ in how the captions are composed (order,
dropout, the original left out).

    python benchmarks/prompts.py --seeds 0 1 2 --train
"""

from pathlib import Path
from typing import Any

import running
from rounds import Run, seed_parser, work_folder
from running import machine, read_json, samples_of, write_results

from vila2cli.score.caption import count_facts
from vila2cli.score.scorer import Vocabulary
from vila2cli.score.stats import Columns, FloatArray, columns_of, estimate, ratio
from vila2cli.world.scenes import VOCABULARY

MIX = ("long-v1", "long-v2", "long-v3")
SAMPLED = ("recaption.temperature=0.7", "recaption.top_p=0.9", "recaption.n=4")
ROWS: dict[str, tuple[str, ...]] = {
    **{prompt: (f'recaption.prompts=["{prompt}"]',) for prompt in ("simple", "brief-v1", *MIX)},
    "mixed": (),
    "mixed, one sampled": SAMPLED[:2],
    "mixed, best of 4 by log-probability": SAMPLED,
    "mixed, best of 4 by judge": (*SAMPLED, "recaption.choose=judge"),
}
BOTH = 'pretrain.main.captions=["original","recaption"]'
TRAINED: dict[str, tuple[str, tuple[str, ...]]] = {
    **{row: (row, (BOTH,)) for row in ROWS},
    "mixed, recaption only": ("mixed", ('pretrain.main.captions=["recaption"]',)),
    "mixed, recaption first": ("mixed", ('pretrain.main.captions=["recaption","original"]',)),
    "mixed, order drawn": ("mixed", (BOTH, "pretrain.main.shuffle_captions=true")),
    "mixed, half the originals dropped": ("mixed", (BOTH, "pretrain.main.caption_dropout={original=0.5}")),
}
"""Name of a trained row: the captions it reads, and how they are composed."""


def folder(run: Run, row: str) -> Path:
    return run.dir / "prompts" / row.replace(", ", "-").replace(" ", "-")


def caption(run: Run, row: str) -> dict[str, Any]:
    """Write a row's captions with round 0's model; their length, facts and cost."""
    out = folder(run, row) / "recaption"
    run.vila2("recaption", "--model", str(run.dir / "round0" / "sft"), "--out", str(out), sets=ROWS[row])
    summary = read_json(out / "summary.json")
    kept = ("words", "kept", "defects", "fallbacks", "requests", "retries", "tokens", "cost")
    return {**facts(out), **{key: summary[key] for key in kept}}


def facts(layer: Path) -> dict[str, Any]:
    """The share of stated facts that are right, and of true facts that are stated, in what the model wrote.

    Captions that fell back to the alt-text are left out: those are not the prompt's.
    """
    vocabulary = Vocabulary(**VOCABULARY)
    rows, images = [], []
    for sample in samples_of(layer):
        annotation = sample.annotation("recaption")
        if annotation is not None and annotation.text and annotation.decision.get("source") == "model":
            count = count_facts(annotation.text, sample.meta["scene"], vocabulary)
            rows.append({"right": count.right, "stated": count.stated, "true": count.true})
            images.append(annotation.image_sha256)
    settings = {"groups": images, "num_bootstrap": 1000, "seed": 0}
    found = estimate(columns_of(rows), shares, **settings) if rows else {}
    return {"num_captions": len(rows), **{name: one.interval().to_json() for name, one in found.items()}}


def shares(totals: Columns) -> dict[str, FloatArray]:
    right = totals["right"]
    return {"precision": ratio(right, totals["stated"]), "recall": ratio(right, totals["true"])}


def train(run: Run, row: str) -> dict[str, Any]:
    """Pretrain from scratch on a row's captions, tune, evaluate."""
    captions, sets = TRAINED[row]
    out, layer = folder(run, row), folder(run, captions) / "recaption"
    stages = {
        "pretrain/config.json": ("pretrain", "--shards", str(layer)),
        "sft/config.json": ("sft", "--model", str(out / "pretrain")),
        "eval/metrics.json": ("eval", "--model", str(out / "sft")),
    }
    for done, (stage, *words) in stages.items():
        if not (out / done).exists():
            run.vila2(stage, *words, "--out", str(out / stage), sets=sets if stage == "pretrain" else ())
    metrics: dict[str, Any] = read_json(out / "eval" / "metrics.json")
    return metrics


def main() -> None:
    parser = seed_parser(__doc__, "prompts", "benchmark-rounds")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--train", action="store_true", help="also pretrain, tune and evaluate every row")
    options = running.parse(parser, seeds=[0], rows=["simple", "mixed, best of 4 by judge"])
    results = []
    for seed in options.seeds:
        run = Run(seed, work_folder(options.work, options.recipe), options.recipe)
        run.rounds(0)
        captions = {row: caption(run, row) for row in options.rows}
        trained = [row for row, (read, _) in TRAINED.items() if options.train and read in captions]
        metrics = {row: train(run, row) for row in trained}
        results.append({"seed": seed, "captions": captions, "metrics": metrics})
        write_results(options.out, {"machine": machine(), "seeds": results}, options.work)


if __name__ == "__main__":
    main()
