"""Write the results section of the README from benchmarks/results/rounds.json.

python benchmarks/tables.py
"""

import json
import re
from pathlib import Path
from statistics import mean
from typing import Any

REPO = Path(__file__).parents[1]
README = REPO / "README.md"
RESULTS = REPO / "benchmarks" / "results" / "rounds.json"
NAMES = {
    "more-epochs": "control: round 0's captions, as many training tokens as round 1",
    "recaption-only": "control: round 1's captions, original dropped",
    "final": "final: round 3 and the specialists' answers",
}


def row(name: str, metrics: list[dict[str, Any]]) -> str:
    """One model: means over seeds."""
    figures = [
        mean(m["caption"][key]["value"] for m in metrics) for key in ("num_words", "precision", "recall")
    ]
    qa = mean(m["qa_mean"]["value"] for m in metrics)
    words, precision, recall = figures
    label = NAMES.get(name, name.replace("round", "round "))
    return f"| {label} | {words:.1f} | {precision:.1%} | {recall:.1%} | {qa:.1%} |"


def interval(value: dict[str, float]) -> str:
    return f"{100 * value['difference']:+.1f} [{100 * value['low']:+.1f}, {100 * value['high']:+.1f}]"


def difference_rows(seeds: list[dict[str, Any]]) -> list[str]:
    """One paired difference and seed: caption precision and QA mean with their intervals, in points."""
    lines = []
    for name in seeds[0]["differences"]:
        for seed in seeds:
            found = seed["differences"][name]
            caption = next(task for key, task in found["tasks"].items() if key.endswith("caption"))
            cells = [interval(caption["precision"]), interval(caption["recall"]), interval(found["qa_mean"])]
            lines.append(f"| {name} | {seed['seed']} | {' | '.join(cells)} |")
    return lines


def tables(results: dict[str, Any]) -> str:
    seeds = results["seeds"]
    names = list(seeds[0]["metrics"])
    num = len(seeds[0]["metrics"])
    assert all(len(seed["metrics"]) == num for seed in seeds)
    head = ["| model | caption words | caption precision | caption recall | QA mean |", "|---|---|---|---|---|"]
    lines = [f"Means over {len(seeds)} seeds, on held-out scenes:", "", *head]
    lines += [row(name, [seed["metrics"][name] for seed in seeds]) for name in names]
    lines += ["", "Paired differences in points, with 95% bootstrap intervals over images:", ""]
    lines += ["| difference | seed | caption precision | caption recall | QA mean |", "|---|---|---|---|---|"]
    return "\n".join(lines + difference_rows(seeds))


if __name__ == "__main__":
    text = tables(json.loads(RESULTS.read_text()))
    pattern = r"(<!-- results: [^>]*-->\n).*?(<!-- /results -->)"
    README.write_text(re.sub(pattern, lambda m: f"{m[1]}{text}\n{m[2]}", README.read_text(), flags=re.DOTALL))
    print(text)
