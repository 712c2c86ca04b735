"""Which captions the judges preferred in each round, and how far the judges can be trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from vila2cli.report.figures import Figure, figure_of
from vila2cli.report.json_reader import real, table_of, tables_of, whole
from vila2cli.report.run_folder import RunRecord
from vila2cli.report.tables import Table, TableRow, columns
from vila2cli.report.wording import NOT_RUN, number, visible

OUTCOMES = ("wins", "ties", "losses")
_COLUMNS = columns(
    *("After", "Captions", "Judge"),
    num=(
        *("Preferred, 95% interval", "Wins / ties / losses", "Unjudged", "Debiased, 95% interval"),
        *("Position bias", "Length bias", "Kappa"),
    ),
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One judge on one pair of captionings: its win rate with ties as halves, and all its `figures`."""

    group: str
    judge: str
    layer: str
    against: str
    rate: Figure
    figures: Mapping[str, Any]
    kappa: float | None

    @property
    def pair(self) -> tuple[str, str]:
        return self.layer, self.against

    @property
    def num_pairs(self) -> int | None:
        """How many pairs the rate is of, where the summary says so."""
        return sum(whole(self.figures.get(outcome)) for outcome in OUTCOMES) or None


def read_judgements(run: RunRecord, group: str) -> list[Judgement]:
    """All pairs and judges of a round's judge/summary.json, the newest captions against the oldest first."""
    stage = run.stage(group, "judge")
    return [
        Judgement(
            group,
            visible(name, 40),
            _layer_name(pair.get("layer", "")),
            _layer_name(pair.get("against", "")),
            rate,
            figures,
            _kappa(pair, name),
        )
        for pair in tables_of(stage.summary.get("pairs") if stage else None)
        for name, figures in table_of(pair.get("judges")).items()
        if isinstance(figures, dict) and (rate := figure_of(figures.get("win_rate"))) is not None
    ]


def judge_table(judgements: Sequence[Judgement]) -> Table:
    """A line for every judgement."""
    rows = (
        TableRow(given.group, (f"{given.layer} over {given.against}", given.judge, *_cells(given)))
        for given in judgements
    )
    return Table(_COLUMNS, tuple(rows))


def _layer_name(layer: object) -> str:
    """The round of a layer folder, else its last two parts: `round 2` of runs/world/round2/recaption."""
    parts = PurePosixPath(str(layer)[:400]).parts
    rounds = [part for part in parts if part.startswith("round") and part[5:].isdecimal()]
    return visible(f"round {rounds[-1][5:]}" if rounds else "/".join(parts[-2:]), 60)


def _kappa(pair: Mapping[str, Any], judge: str) -> float | None:
    """Cohen's kappa of this judge with the first other one."""
    for agreement in tables_of(pair.get("agreement")):
        judges = agreement.get("judges")
        if isinstance(judges, list) and judge in judges:
            return real(agreement.get("kappa"))
    return None


def _cells(judgement: Judgement) -> tuple[str, ...]:
    figures = judgement.figures
    debiased = figure_of(figures.get("position_free_rate"))
    biases = [figure_of(figures.get(name)) for name in ("position_bias", "length_bias")]
    return (
        _percent(judgement.rate),
        " / ".join(str(whole(figures.get(outcome))) for outcome in OUTCOMES),
        str(whole(figures.get("unjudged"))),
        *(NOT_RUN if rate is None else _percent(rate) for rate in (debiased, *biases)),
        NOT_RUN if judgement.kappa is None else number(judgement.kappa, 2),
    )


def _percent(rate: Figure) -> str:
    percent = rate.scaled(100)
    return f"{number(percent.value, 1)} %" + (f" ({span})" if (span := percent.span()) else "")
