"""Which charts the page draws: caption length, caption quality, QA mean and every task, over the rounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vila2cli.report.caption_layers import Words
from vila2cli.report.figures import Figure, scale_of
from vila2cli.report.plots import Series, line_chart
from vila2cli.report.results import PRECISION, QA_MEAN, RECALL, RoundResult, task_names
from vila2cli.report.wording import number


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with its title and the line under it."""

    title: str
    svg: Markup
    note: str = ""


def charts(results: Sequence[RoundResult], words: Mapping[str, Words]) -> list[Chart]:
    """All charts for which there is at least one value; controls are in the table alone."""
    results = [result for result in results if not result.is_control]
    drawn = [
        _length_chart(results, words),
        _share_chart(
            results,
            "Caption facts",
            {PRECISION: "precision", RECALL: "recall"},
            "Facts stated that are right, and facts of the picture that are stated.",
        ),
        _share_chart(results, "QA mean", {QA_MEAN: "QA mean"}, "Unweighted mean over the question tasks."),
        *(_share_chart(results, name, {name: name}, _task_note(results, name)) for name in task_names(results)),
    ]
    return [chart for chart in drawn if chart is not None]


def _task_note(results: Sequence[RoundResult], name: str) -> str:
    task = next(result.tasks[name] for result in results if name in result.tasks)
    parts = [task.headline, f"{task.num_samples:,} samples" if task.num_samples else ""]
    return ", ".join(filter(None, parts))


def _share_chart(
    results: Sequence[RoundResult], title: str, measures: Mapping[str, str], note: str
) -> Chart | None:
    labels = [result.group.removeprefix("round ") for result in results]
    figures = {name: [result.measure(name) for result in results] for name in measures}
    scale = scale_of([figure for row in figures.values() for figure in row])
    series = [
        Series(measures[name], {x: figure.scaled(scale) for x, figure in enumerate(row) if figure is not None})
        for name, row in figures.items()
        if any(row)
    ]
    if not series:
        return None
    svg = line_chart(
        labels,
        series,
        summary=_summary(title, labels, series),
        y_name="%" if scale == 100 else "",
        digits=1,
        detached=labels.count("final"),
        ceiling=100.0 if scale == 100 else None,
    )
    return Chart(title, svg, note)


def _length_chart(results: Sequence[RoundResult], words: Mapping[str, Words]) -> Chart | None:
    groups = [result.group for result in results if result.is_round]
    points = {
        x: Figure(counted.mean, max(counted.mean - counted.sd, 0.0), counted.mean + counted.sd)
        for x, group in enumerate(groups)
        if (counted := words.get(group)) is not None
    }
    if not points:
        return None
    series = [Series("words per caption", points)]
    labels = ["alt-text" if group == "round 0" else group.removeprefix("round ") for group in groups]
    note = (
        "Mean, bars one standard deviation of the captions. "
        "The paper's COYO captions: 11.9, 101.2, 117.1, 126.8, 125.9 words (VILA^2 table 1)."
    )
    summary = _summary("Words per caption", labels, series)
    svg = line_chart(labels, series, summary=summary, y_name="words", digits=1, from_zero=True)
    return Chart("Caption length", svg, note)


def _summary(title: str, labels: Sequence[str], series: Sequence[Series]) -> str:
    """The chart in words, for those who do not see it."""
    lines = [
        f"{line.name}: "
        + ", ".join(f"{labels[x]} {number(point.value, 1)}" for x, point in line.points.items())
        for line in series
    ]
    return f"{title} by round. {'; '.join(lines)}"
