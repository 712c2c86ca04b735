"""What the specialists are worth in the embedded world: yield, accuracy, and the final model against controls.

For every seed: rounds 0 to 3, the three specialists and their answers, the final model, then from scratch
  final-direct         the specialists' own training data put straight into pretraining, without answers
  final-equal-compute  neither, and as many more passes as give the final model's number of training tokens
  final-only-NAME      the answers of one specialist
Differences are paired on the same questions, with 95% bootstrap intervals over images. Every answer of a
specialist is checked against what is known of its picture; intervals are over pictures.

    python benchmarks/specialists.py --seeds 0 1 2
"""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import running
from rounds import SPECIALISTS, Run, seed_parser, work_folder
from running import machine, read_json, samples_of, write_results
from tables import specialists as specialists_table

from vila2cli.score.box import iou, parse_boxes
from vila2cli.score.stats import Columns, FloatArray, columns_of, estimate, ratio
from vila2cli.world.sayings import relation_phrase

CONTROLS = ("final-direct", "final-equal-compute", *(f"final-only-{name}" for name in SPECIALISTS))
MIN_IOU = 0.5

_RELATION = re.compile(r"The (\w+ \w+) is ([a-z ]+?) the (\w+ \w+)\.")
_LOCATED = re.compile(r"(\w+ \w+) at (\[[^\]]*\])")
_QUOTED = re.compile(r'"([^"]*)"')

Row = dict[str, float]


def check_spatial(text: str, scene: dict[str, Any]) -> Row:
    """Relations stated and right, and pairs of objects of which a right one is stated."""
    objects = {f"{one['colour']} {one['shape']}": SimpleNamespace(**one) for one in scene["objects"]}
    right, pairs, stated = 0, set(), _RELATION.findall(text)
    for first, phrase, other in stated:
        known = first in objects and other in objects and first != other
        if known and phrase == relation_phrase(objects[first], objects[other]):
            right += 1
            pairs.add(frozenset((first, other)))
    num_pairs = len(objects) * (len(objects) - 1) // 2
    return {"said": len(stated), "right": right, "found": len(pairs), "there": num_pairs}


def check_grounding(text: str, scene: dict[str, Any]) -> Row:
    """Boxes stated that lie on the object named, and objects that have one."""
    truths = {f"{one['colour']} {one['shape']}": tuple(one["box"]) for one in scene["objects"]}
    stated, right, located = _LOCATED.findall(text), 0, set()
    for name, box_text in stated:
        boxes = parse_boxes(box_text)
        if boxes and name in truths and iou(boxes[0], truths[name]) >= MIN_IOU:
            right += 1
            located.add(name)
    return {"said": len(stated), "right": right, "found": len(located), "there": len(truths)}


def check_ocr(text: str, scene: dict[str, Any]) -> Row:
    """Words read and right, and words there that are read; in a picture without one, a word said is wrong."""
    said = _QUOTED.findall(text)
    truth = scene["text"]["word"] if scene["text"] else None
    right = sum(word == truth for word in said)
    return {"said": len(said), "right": right, "found": float(right > 0), "there": float(truth is not None)}


CHECKS = {"spatial": check_spatial, "grounding": check_grounding, "ocr": check_ocr}


def shares(totals: Columns) -> dict[str, FloatArray]:
    return {
        "precision": ratio(totals["right"], totals["said"]),
        "recall": ratio(totals["found"], totals["there"]),
    }


def answers(layer: Path, name: str, seed: int) -> dict[str, Any]:
    """A specialist's yield, and how much of what it says is right and how much of what is there it says."""
    rows: list[Row] = []
    images: list[str] = []
    for sample in samples_of(layer):
        if annotation := sample.annotation(name):
            images.append(sample.image_sha256)
            rows.append(CHECKS[name](annotation.turns[1].text, sample.meta["scene"]))
    summary = read_json(layer / "summary.json")
    settings = {"groups": images, "num_bootstrap": 1000, "seed": seed}
    found = estimate(columns_of(rows), shares, **settings) if rows else {}
    return {
        "asked": summary["asked"],
        "answered": summary["out"],
        "yield": summary["yield"],
        "dropped": summary["dropped"],
        **{metric: one.interval().to_json() for metric, one in found.items()},
    }


def measure(run: Run, num_rounds: int) -> dict[str, Any]:
    """Run one seed and collect its figures."""
    run.rounds(num_rounds)
    run.specialists()
    for control in CONTROLS:
        for stage in ("pretrain", "sft", "eval"):
            run.vila2(stage, "--round", control)
    last = f"round{num_rounds}"
    names = [last, "final", *CONTROLS]
    return {
        "seed": run.seed,
        "answers": {
            name: answers(run.dir / "specialists" / name / "relabel", name, run.seed) for name in SPECIALISTS
        },
        "tokens": {name: run.num_tokens(name) for name in names},
        "metrics": {name: run.metrics(name) for name in names},
        "differences": {f"final - {old}": run.difference(old, "final") for old in (last, *CONTROLS)}
        | {f"{new} - {last}": run.difference(last, new) for new in CONTROLS},
    }


def main() -> None:
    parser = seed_parser(__doc__, "specialists", "benchmark-rounds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    options = running.parse(parser, seeds=[0], rounds=1)
    sets = [*options.sets, f"rounds={options.rounds}"] if options.sets or options.rounds != 3 else []
    work = work_folder(options.work, options.recipe, sets)
    results: list[dict[str, Any]] = []
    for seed in options.seeds:
        run = Run(seed, work, options.recipe)
        run.sets += sets
        results.append(measure(run, options.rounds))
        write_results(options.out, {"machine": machine(), "seeds": results}, options.work)
    print(specialists_table({"seeds": results}))


if __name__ == "__main__":
    main()
