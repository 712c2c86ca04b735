"""What the judges said of each round's captions, and how far they can be trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from vila2cli.report.json_reader import real, whole
from vila2cli.report.results import Figure, figure_of
from vila2cli.report.run_folder import RunRecord
from vila2cli.report.wording import NOT_RUN, number, visible


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One judge on one pair of captionings; ties count half in `rate`.

    `position_free` is the rate without the ties that the judge's taste for a place made,
    `position_bias` the share of answers that named the caption shown first (0.5 is none),
    `length_bias` the share of decided pairs that the longer caption won.
    """

    group: str
    judge: str
    layer: str
    against: str
    rate: Figure
    wins: int
    ties: int
    losses: int
    unjudged: int
    position_free: Figure | None
    position_bias: float | None
    length_bias: float | None
    kappa: float | None


@dataclass(frozen=True, slots=True)
class JudgeRow:
    round: str
    pair: str
    judge: str
    cells: tuple[str, ...]


def read_judgements(run: RunRecord, group: str) -> list[Judgement]:
    """All pairs and judges of a round's judge/summary.json, the newest captions against the oldest first."""
    stage = run.stage(group, "judge")
    pairs = stage.summary.get("pairs") if stage else None
    found = []
    for pair in pairs if isinstance(pairs, list) else []:
        judges = pair.get("judges") if isinstance(pair, dict) else None
        for name, figures in judges.items() if isinstance(judges, dict) else ():
            if isinstance(figures, dict) and (rate := figure_of(figures.get("win_rate"))) is not None:
                found.append(_judgement(group, name, pair, figures, rate))
    return found


def judge_rows(judgements: Sequence[Judgement]) -> list[JudgeRow]:
    """The judgements as lines of a table."""
    return [
        JudgeRow(one.group, f"{one.layer} over {one.against}", one.judge, _cells(one)) for one in judgements
    ]


def _judgement(
    group: str, name: str, pair: Mapping[str, Any], figures: Mapping[str, Any], rate: Figure
) -> Judgement:
    return Judgement(
        group=group,
        judge=visible(name, 40),
        layer=_layer_name(pair.get("layer", "")),
        against=_layer_name(pair.get("against", "")),
        rate=rate,
        wins=whole(figures.get("wins")),
        ties=whole(figures.get("ties")),
        losses=whole(figures.get("losses")),
        unjudged=whole(figures.get("unjudged")),
        position_free=figure_of(figures.get("position_free_rate")),
        position_bias=real(figures.get("position_bias")),
        length_bias=real(figures.get("length_bias")),
        kappa=_kappa(pair.get("agreement"), name),
    )


def _layer_name(layer: object) -> str:
    """The round of a layer folder, else its last two parts: `round 2` of runs/world/round2/recaption."""
    parts = PurePosixPath(str(layer)[:400]).parts
    rounds = [part for part in parts if part.startswith("round") and part[5:].isdecimal()]
    return visible(f"round {rounds[-1][5:]}" if rounds else "/".join(parts[-2:]), 60)


def _kappa(agreement: object, judge: str) -> float | None:
    """Cohen's kappa of this judge with the first other one."""
    for one in agreement if isinstance(agreement, list) else []:
        judges = one.get("judges") if isinstance(one, dict) else None
        if isinstance(judges, list) and judge in judges:
            return real(one.get("kappa"))
    return None


def _cells(one: Judgement) -> tuple[str, ...]:
    counts = f"{one.wins} / {one.ties} / {one.losses}"
    shares = [one.position_bias, one.length_bias, one.kappa]
    return (
        _percent(one.rate),
        counts,
        str(one.unjudged),
        NOT_RUN if one.position_free is None else _percent(one.position_free),
        *(NOT_RUN if share is None else number(share, 2) for share in shares),
    )


def _percent(rate: Figure) -> str:
    text = f"{number(100 * rate.value, 1)} %"
    if rate.low is None or rate.high is None:
        return text
    return f"{text} ({number(100 * rate.low, 1)}–{number(100 * rate.high, 1)})"
