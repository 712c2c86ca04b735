"""Write the tables of the guide and the README from the figures in benchmarks/results.

python benchmarks/tables.py
"""

import re
from statistics import mean
from typing import Any

import running
from repeats import t_interval
from running import REPO, RESULTS, read_json

README = REPO / "README.md"
RESULTS_PAGE = REPO / "docs" / "results.md"
NAMES = {
    "more-epochs": "control: round 0's captions, as many training tokens as round 1",
    "recaption-only": "control: round 1's captions, original dropped",
    "final": "final: round 3 and the specialists' answers",
}


COLUMNS = "caption precision | caption recall | QA mean | spatial | grounding IoU@0.5 | OCR |"
SKILLS = {"spatial": "accuracy", "grounding": "iou_at_50", "ocr": "accuracy"}
"""Each specialist's own skill and the metric it is held to."""
CAPTION = ("precision", "recall")

WAYS = {
    "raw-vllm": "vLLM's `generate`, all images decoded in memory",
    "vila2-vllm": "**`vila2 recaption`, vLLM, tar to tar**",
    "shard-loop": "a loop over tars: read, `LLM.generate`, write",
    "raw-hf": "transformers' `generate` on batches in memory",
    "vila2-hf": "**`vila2 recaption`, transformers, tar to tar**",
    "pipeline-32": "transformers' pipeline, 32 at a time",
    "pipeline-1": "transformers' pipeline, one at a time",
}
"""The rows of recaption.py."""

TILES = {"none": "one square", "dynamic": "`dynamic`, at most 2 x 2 tiles", "catty": "`catty`, at most 8 tiles"}
"""The arms of tiles.py."""

ARMS = {
    "trainer": "transformers' Trainer, padded batches",
    "padded": "padded, samples of like length together",
    "packed": "packed",
    "padded-cached": "padded, the frozen tower's features kept",
    "packed-cached": "**packed, the frozen tower's features kept**",
}
"""The arms of train.py."""


def row(name: str, metrics: list[dict[str, Any]]) -> str:
    """One model: means over seeds."""
    cells = [f"{mean(m['caption']['num_words']['value'] for m in metrics):.1f}"]
    cells += [f"{mean(m['caption'][key]['value'] for m in metrics):.1%}" for key in ("precision", "recall")]
    cells += [f"{mean(m['qa_mean']['value'] for m in metrics):.1%}"]
    for skill, metric in SKILLS.items():
        values = [m["tasks"][f"world-{skill}"]["metrics"][metric]["value"] for m in metrics]
        cells.append(f"{mean(values):.1%}")
    return f"| {NAMES.get(name, spaced(name))} | {' | '.join(cells)} |"


def spaced(name: str) -> str:
    """`round3` as people write it."""
    return re.sub(r"\bround(\d)", r"round \1", name)


def interval(value: dict[str, float]) -> str:
    return f"{100 * value['difference']:+.1f} [{100 * value['low']:+.1f}, {100 * value['high']:+.1f}]"


def difference_rows(seeds: list[dict[str, Any]]) -> list[str]:
    """One paired difference and seed: captions, QA mean and the skills with their intervals, in points."""
    lines = []
    for name in seeds[0]["differences"]:
        for seed in seeds:
            found = seed["differences"][name]
            tasks = found["tasks"]
            cells = [interval(tasks["world-caption"][key]) for key in ("precision", "recall")]
            cells.append(interval(found["qa_mean"]))
            cells += [interval(tasks[f"world-{skill}"][metric]) for skill, metric in SKILLS.items()]
            lines.append(f"| {spaced(name)} | {seed['seed']} | {' | '.join(cells)} |")
    return lines


def means(seeds: list[dict[str, Any]], names: list[str]) -> list[str]:
    """A row for each model: its means over seeds."""
    lines = [f"| model | caption words | {COLUMNS}", "|---|---|---|---|---|---|---|---|"]
    return lines + [row(name, [seed["metrics"][name] for seed in seeds]) for name in names]


def headline(results: dict[str, Any]) -> str:
    """The rounds and the final model in five rows."""
    return "\n".join(means(results["seeds"], [*(f"round{number}" for number in range(4)), "final"]))


def tables(results: dict[str, Any]) -> str:
    """Both tables as Markdown: the models' means over seeds, and every seed's paired differences."""
    seeds = results["seeds"]
    names = list(seeds[0]["metrics"])
    assert all(list(seed["metrics"]) == names for seed in seeds)
    count = f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]['seed']}"
    lines = [f"Means over {count}, on held-out scenes:" if len(seeds) > 1 else f"{count}, on held-out scenes:"]
    lines += ["", *means(seeds, names)]
    lines += ["", "Paired differences in points, with 95% bootstrap intervals over images:", ""]
    lines += [f"| difference | seed | {COLUMNS}", "|---|---|---|---|---|---|---|---|"]
    return "\n".join(lines + difference_rows(seeds))


def speed(results: dict[str, Any]) -> str:
    """What recaption.py measured as Markdown."""
    rows, machine = results["rows"], results["machine"]
    limit = rows["raw-vllm"]["images_per_s"]
    lines = ["| captioning the same images | images/s | beside vLLM alone |", "|---|---|---|"]
    for name, way in WAYS.items():
        rate = rows[name]["images_per_s"]
        lines.append(f"| {way} | {rate:.1f} | {rate / limit:.2f} |")
    where = machine.get("gpu") or f"{machine['num_cores']} CPU cores"
    lines += ["", f"On {where}, torch {machine['torch']}, vLLM {machine['vllm']}, "]
    lines[-1] += f"transformers {machine['transformers']}; {results['work']['new_tokens']} new tokens an image."
    return "\n".join(lines)


def filtering(results: dict[str, Any]) -> str:
    """What filter.py measured as Markdown: how ranks tell captions apart, and what training on them gains."""
    lines = [
        "| the half kept by | AUC, right against wrong alt-text | caption precision | QA mean |",
        "|---|---|---|---|",
    ]
    for rank in ("perplexity", "image-gain"):
        aucs = [seed["alt_text"]["right_against_wrong"][rank]["auc"] for seed in results["seeds"]]
        pooled = results["pooled"][f"{rank} - random"]
        found = (pooled["tasks"]["world-caption"]["precision"], pooled["qa_mean"])
        cells = [interval(dict(zip(("low", "high"), one["t_interval"], strict=True)) | one) for one in found]
        lines.append(f"| {rank} | {mean(aucs):.2f} | {' | '.join(cells)} |")
    lots = mean(seed["alt_text"]["right_against_wrong"]["lots"]["auc"] for seed in results["seeds"])
    lines += [
        "",
        f"Drawing lots has an AUC of {lots:.2f}. The last columns are points over training on a random half,",
    ]
    return "\n".join([*lines, f"with 95% t intervals over {len(results['seeds'])} seeds."])


def training(results: dict[str, Any]) -> str:
    """What train.py measured as Markdown."""
    lines = [
        "| the same samples and model | tokens/s | beside Trainer | padding |",
        "|---|---|---|---|",
    ]
    for name, arm in ARMS.items():
        rate, ratio, padding = (results[key][name] for key in ("tokens_per_s", "over_trainer", "padding"))
        lines.append(f"| {arm} | {rate:,.0f} | {ratio:.2f} | {padding:.0%} |")
    machine, samples = results["machine"], results["samples"]
    where = machine.get("gpu") or f"{machine['num_threads']} CPU thread"
    lines += ["", f"On {where}, torch {machine['torch']}, transformers {machine['transformers']};"]
    typical = f"in the median {samples['tokens']['median']:.0f} tokens long"
    return "\n".join([*lines, f"{samples['count']:,} of the world's pretraining samples, {typical}."])


def specialists(results: dict[str, Any]) -> str:
    """What specialists.py measured as Markdown: how good the answers are, and what the final model is worth."""
    seeds = results["seeds"]
    lines = ["| specialist | yield | precision of its answers | recall |", "|---|---|---|---|"]
    for name in SKILLS:
        found = [seed["answers"][name] for seed in seeds]
        cells = [f"{mean(one['yield'] for one in found):.1%}"]
        for key in ("precision", "recall"):
            values = [one[key]["value"] for one in found]
            cells.append(f"{mean(values):.1%} ({min(values):.1%} to {max(values):.1%})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    columns = "caption precision | caption recall | QA mean | spatial | grounding IoU@0.5 | OCR |"
    lines += ["", f"| difference | {columns}", "|---|---|---|---|---|---|---|"]
    for name in seeds[0]["differences"]:
        found = [seed["differences"][name] for seed in seeds]
        cells = [over_seeds([one["tasks"]["world-caption"][key] for one in found]) for key in CAPTION]
        cells.append(over_seeds([one["qa_mean"] for one in found]))
        cells += [
            over_seeds([one["tasks"][f"world-{skill}"][metric] for one in found])
            for skill, metric in SKILLS.items()
        ]
        lines.append(f"| {spaced(name)} | {' | '.join(cells)} |")
    spread = (
        ", with 95% t intervals over the seeds" if len(seeds) > 2 else "; their intervals are in the results"
    )
    ends = "the lowest and the highest seed in brackets"
    lines += ["", f"Means over {len(seeds)} seeds, of answers with {ends}; differences in points{spread}."]
    return "\n".join(lines)


def findings(results: dict[str, Any]) -> str:
    """What findings_vila.py measured as Markdown: differences in QA by seed, and over the seeds."""
    seeds = results["seeds"]
    columns = " | ".join(f"seed {seed['seed']}" for seed in seeds)
    lines = [f"| difference in QA points | {columns} | over seeds |", "|---|" + "---|" * (len(seeds) + 1)]
    for table in ("differences", "soup_differences"):
        for name in seeds[0].get(table, {}):
            found = [seed[table][name]["qa_mean"] for seed in seeds]
            lines.append(f"| {name} | {' | '.join(map(interval, found))} | {over_seeds(found)} |")
    lines += ["", "95% intervals: of a seed over images (bootstrap), over the seeds by Student's t."]
    return "\n".join(lines)


OBJECTS = ("colour", "shape", "existence")
"""The questions about the small object of a page."""
TILES_ASKED = {
    "ocr": "the word",
    "objects": "the small object",
    "colour": "its colour",
    "shape": "its shape",
    "existence": "is it one",
}
"""What is asked of a page; the second column is the mean of the others."""


def tiles(results: dict[str, Any]) -> str:
    """What tiles.py measured as Markdown."""
    seeds = results["seeds"]
    lines = [
        f"| fine print seen as | tokens | passes | training | answering | {' | '.join(TILES_ASKED.values())} |",
        "|" + "---|" * (5 + len(TILES_ASKED)),
    ]
    for name, what in TILES.items():
        arms = [seed["arms"][name] for seed in seeds]
        cells = [f"{mean(seed['tokens'][name]['picture'] for seed in seeds):.0f}"]
        cells.append(f"{mean(arm['epochs'] for arm in arms):.1f}")
        cells += [f"{mean(arm['seconds'][kind] for arm in arms):.0f} s" for kind in ("training", "answering")]
        lines.append(f"| {what} | {' | '.join([*cells, *tiles_answered(arms)])} |")
    answered = " | ".join(tiles_answered([seed["stock"] for seed in seeds]))
    lines.append(f"| `catty`, asked in `dynamic`'s tiles | | | | | {answered} |")
    for name in ("dynamic - none", "catty - dynamic", "stock - catty"):
        found = results["differences"][name]
        cells = [interval(found[task]) for task in TILES_ASKED]
        lines.append(f"| {spaced(name)} | | | | | {' | '.join(cells)} |")
    tokens = mean(arm["training_tokens"] for seed in seeds for arm in seed["arms"].values())
    count = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    lines += [
        "",
        f"Means over {count}, {tokens / 1e6:.2f} million training tokens each; differences in points with",
    ]
    differing, captions = (sum(seed["stock"][key] for seed in seeds) for key in ("differing", "captions"))
    lines.append(
        "95% bootstrap intervals over pages, paired on the same questions. Stock is `catty`'s checkpoint as"
    )
    return "\n".join([*lines, f"other tools ask it: {differing} of {captions} captions are others then."])


def tiles_answered(arms: list[dict[str, Any]]) -> list[str]:
    """The shares of questions that are answered right, by the columns of TILES_ASKED."""
    tasks = [arm["metrics"]["tasks"] for arm in arms]
    found = {
        name: mean(one[f"fine-print-{name}"]["metrics"]["accuracy"]["value"] for one in tasks)
        for name in ("ocr", *OBJECTS)
    }
    found["objects"] = mean(found[name] for name in OBJECTS)
    return [f"{found[name]:.1%}" for name in TILES_ASKED]


def over_seeds(found: list[dict[str, float]]) -> str:
    """The mean of differences in points, with its interval by Student's t where there are several."""
    values = [one["difference"] for one in found]
    spread = t_interval(values) if len(values) > 2 else None  # of two it says nothing
    if spread is None:
        return f"{100 * mean(values):+.1f}"
    return interval({"difference": spread.value, "low": spread.low, "high": spread.high})


def put(page: str, section: str, text: str) -> str:
    """A page with a text between the marks of a section."""
    pattern = rf"(<!-- {section}: [^>]*-->\n).*?(<!-- /{section} -->)"
    new, found = re.subn(pattern, lambda m: f"{m[1]}{text}\n{m[2]}", page, flags=re.DOTALL)
    assert found == 1, f"there is no section {section}"
    return new


SECTIONS = (
    (README, "headline", "rounds", headline),
    (RESULTS_PAGE, "results", "rounds", tables),
    (RESULTS_PAGE, "speed", "recaption-small", speed),
    (RESULTS_PAGE, "filter", "filter", filtering),
    (RESULTS_PAGE, "training", "train", training),
    (RESULTS_PAGE, "specialists", "specialists", specialists),
    (RESULTS_PAGE, "findings", "findings_vila", findings),
    (RESULTS_PAGE, "tiles", "tiles", tiles),
)


if __name__ == "__main__":
    parser = running.parser_of(__doc__)
    parser.add_argument(running.FLAG, action="store_true", help="make the tables and write nothing")
    options = parser.parse_args()
    pages = {page: page.read_text() for page, *_ in SECTIONS}
    for page, section, file, make in SECTIONS:
        if (RESULTS / f"{file}.json").exists():
            pages[page] = put(pages[page], section, make(read_json(RESULTS / f"{file}.json")))
    if not options.quick:
        for page, text in pages.items():
            page.write_text(text)
