"""A judged folder in the terminal: a table of pairs and judges, ranks, agreement, and what is unjudged."""

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from statistics import NormalDist
from typing import Any

from vila2cli.errors import DataError
from vila2cli.run.cost import counted, fewer_tiles_lines
from vila2cli.score.significance import samples_needed
from vila2cli.score.stats import CONFIDENCE, TOO_FEW
from vila2cli.score.verdict import Verdict
from vila2cli.text.printable import aligned

NOTHING = "-"
EVEN = 0.5
_HALF_WIDTH = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""Standard errors in half of an interval."""
_HEAD = (
    *("pair", "judge", "preferred", "wins/ties/losses", "unjudged"),
    *("debiased", "position bias", "length bias"),
)
_LEGEND = (
    "preferred counts ties as halves; debiased leaves out the ties that position bias made; position bias is "
    "how often it chose what was shown first, length bias how often the longer caption won (50 % is none)"
)


def summary_table(summary: Mapping[str, Any]) -> list[str]:
    """The summary of a judged folder as lines."""
    rows = [row for pair in summary["pairs"] for row in _rows(pair)]
    lines = [*aligned([_HEAD, *rows]), _LEGEND, *filter(None, map(_equal_line, summary["pairs"]))]
    lines += [line for pair in summary["pairs"] for line in _conclusions(pair)]
    for judge, strengths in summary.get("bradley_terry", {}).items():
        ranks = ", ".join(f"{short(rank['layer'])} {_elo(rank)}" for rank in strengths)
        lines.append(f"Elo by {judge} (Bradley-Terry): {ranks}")
    for judge, layers in summary.get("captions", {}).items():
        lines += [f"{judge} on {short(layer)}: {_means(figures)}" for layer, figures in layers.items()]
    for pair in summary["pairs"]:
        lines += agreement_lines(pair)
    if lacking := summary.get("num_lacking"):
        drawn = f"; {summary['num_drawn']:,} others are" if "num_drawn" in summary else ""
        lines.append(f"{counted(lacking, 'sample')} not drawn for want of a caption in each layer{drawn}")
    return [*lines, *unjudged_lines(summary), *fewer_tiles_lines(summary)]


def _equal_line(pair: Mapping[str, Any]) -> str:
    """How many pairs no judge could decide, as both captions are one text; "" for none."""
    counted = [
        (figures.get("equal", 0), figures.get("num_pairs", 0) + figures["unjudged"])
        for figures in pair["judges"].values()
    ]
    equal, num = max(counted, default=(0, 0))
    what = f"{equal} of {num} pairs have equal captions, which tell nothing of either"
    return f"{short(pair['layer'])} over {short(pair['against'])}: {what}" if 0 < equal < num else ""


def _conclusions(pair: Mapping[str, Any]) -> Iterator[str]:
    """What the verdicts of each judge on a pair say: which captions it prefers, or why that is open."""
    newer, older = short(pair["layer"]), short(pair["against"])
    for judge, figures in pair["judges"].items():
        num = figures["wins"] + figures["ties"] + figures["losses"]
        if num and "low" in (figures["win_rate"] or {}):
            yield f"{newer} over {older} by {judge}: {_conclusion(figures, num, newer, older)}"


def _conclusion(figures: Mapping[str, Any], num: int, newer: str, older: str) -> str:
    if _are_all_equal(figures):
        return f"nothing was judged: all {num:,} pairs are equal"
    if (num_unequal := num - figures.get("equal", 0)) < TOO_FEW:
        return f"too few pairs of captions that differ to tell: {num_unequal}, and it takes {TOO_FEW}"
    rate = figures["win_rate"]
    if rate["low"] > EVEN or rate["high"] < EVEN:
        return f"the captions of {newer if rate['low'] > EVEN else older} are preferred"
    error = (rate["high"] - rate["low"]) / 2 / _HALF_WIDTH
    needed = samples_needed(error, num, rate["value"] - EVEN)
    return "no clear difference" + ("" if needed is None else f"; about {needed:,} pictures would tell")


def agreement_lines(pair: Mapping[str, Any]) -> list[str]:
    """How far the judges of a pair agree, one line for every two of them and one for all."""
    where = f"{short(pair['layer'])} over {short(pair['against'])}"
    lines = []
    for two in pair["agreement"]:
        if not two["num_samples"]:
            continue
        span = two.get("kappa_interval")
        more = f" ({span[0]:.2f} to {span[1]:.2f})" if span else ""
        same = f", the same in {100 * two['same']:.0f} %" if two.get("same") is not None else ""
        lines.append(
            f"agreement on {where}: {' and '.join(two['judges'])} kappa {_decimals(two['kappa'])}{more}"
            f"{same} of {two['num_samples']}"
        )
    if many := pair.get("all_judges"):
        alpha, fleiss = (_decimals(many[name]) for name in ("krippendorff_alpha", "fleiss_kappa"))
        lines.append(
            f"agreement on {where}: all {many['num_judges']} judges Krippendorff's alpha {alpha} over "
            f"{many['num_samples']}, Fleiss' kappa {fleiss} over {many['num_judged_by_all']}"
        )
    return lines


def _decimals(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def unjudged_lines(summary: Mapping[str, Any]) -> list[str]:
    """How many pairs each judge left unjudged, and why."""
    return [
        f"unjudged by {judge}: {', '.join(f'{num} {word}' for word, num in reasons.items())}"
        for judge, reasons in summary.get("unjudged_reasons", {}).items()
    ]


def verdict_lines(verdicts: Any) -> list[str]:
    """What a judge said of each pair of captions of a sample; [] of anything that is not verdicts."""
    try:
        return [_verdict_line(Verdict.from_json(verdict)) for verdict in verdicts]
    except (DataError, TypeError):
        return []


def _verdict_line(verdict: Verdict) -> str:
    shown = zip(("shown first", "shown second"), verdict.answers, strict=False)
    answers = ", ".join(f"{order}: {json.dumps(text, ensure_ascii=False)}" for order, text in shown)
    parts = (verdict.outcome, "equal captions" if verdict.equal else "", verdict.reason)
    where = f"{short(verdict.layer)} over {short(verdict.against)}"
    return f"{where}: {', '.join(filter(None, parts))}" + (f" ({answers})" if answers else "")


def short(layer: str) -> str:
    """The last two parts of a layer's folder."""
    return "/".join(PurePath(layer).parts[-2:])


def _rows(pair: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for judge, figures in pair["judges"].items():
        rates = (figures["win_rate"], figures.get("position_free_rate"))
        preferred, debiased = (None, None) if _are_all_equal(figures) else rates
        yield (
            f"{short(pair['layer'])} over {short(pair['against'])}",
            judge,
            percent(preferred),
            f"{figures['wins']}/{figures['ties']}/{figures['losses']}",
            str(figures["unjudged"]),
            percent(debiased),
            *(percent(_share(figures, name)) for name in ("position_bias", "length_bias")),
        )


def _are_all_equal(figures: Mapping[str, Any]) -> bool:
    """Whether all that was judged are pairs of one text, of which a rate says nothing."""
    num = int(figures["wins"] + figures["ties"] + figures["losses"])
    return num > 0 and num == figures.get("equal", 0)


def percent(rate: Mapping[str, float] | None) -> str:
    """A rate with its interval where it has one, `-` for none."""
    if rate is None:
        return NOTHING
    span = f" ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})" if "low" in rate else ""
    return f"{100 * rate['value']:.1f} %{span}"


def _share(figures: Mapping[str, Any], name: str) -> dict[str, float] | None:
    """A bias as a rate."""
    value = figures.get(name)
    return None if value is None else {**figures.get("intervals", {}).get(name, {}), "value": value}


def _elo(rank: Mapping[str, Any]) -> str:
    span = "" if rank["low"] == rank["high"] else f" ({rank['elo_low']:+.0f} to {rank['elo_high']:+.0f})"
    return f"{rank['elo']:+.0f}{span}"


def _means(figures: Mapping[str, Any]) -> str:
    means = [
        f"{name.replace('_', ' ')} {mean['value']:.2f} ({mean['low']:.2f} to {mean['high']:.2f})"
        for name, mean in figures.items()
        if isinstance(mean, Mapping)
    ]
    return f"{', '.join(means)}; {figures['num_captions']} captions"
