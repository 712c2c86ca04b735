"""Samples counted by category, and groups of samples that count as one: right when all of their answers are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vila2cli.errors import DataError
from vila2cli.score.scorer import Labels, Reference, Row, Scored
from vila2cli.score.stats import Columns, FloatArray, Metrics, ratio


@dataclass(frozen=True, slots=True)
class LabelGroup:
    """The samples with one value of a label: counted once as `count`, and as `right` if all of them score 1.

    A sample without the label is in no group. The names of `by_category` groups end in the category, too
    (`both:color`).
    """

    label: str
    right: str
    count: str
    by_category: bool = False


def tally(
    *columns: str, label: str = "category", separator: str = "", groups: Sequence[LabelGroup] = ()
) -> Callable[[Sequence[Scored]], list[Row]]:
    """What `Scorer.complete` is for families that count by category or in groups.

    Each sample's `columns` are added once more as COLUMN:CATEGORY, and 1 as num:CATEGORY, for the category that
    `label` names, or for each of several with a separator between. The first row of each group counts it.
    """

    def complete(scored: Sequence[Scored]) -> list[Row]:
        rows = [dict(prediction.row) for prediction in scored]
        for prediction, row in zip(scored, rows, strict=True):
            named = prediction.labels.get(label, "")
            for category in filter(None, named.split(separator) if separator else [named]):
                row |= {f"{column}:{category}": prediction.row[column] for column in columns}
                row[f"num:{category}"] = 1.0
        for group in groups:
            _count(group, scored, rows)
        names = dict.fromkeys(name for row in rows for name in row)
        return [{name: row.get(name, 0.0) for name in names} for row in rows]

    return complete


def _count(group: LabelGroup, scored: Sequence[Scored], rows: Sequence[Row]) -> None:
    members: dict[str, list[int]] = {}
    for index, prediction in enumerate(scored):
        if name := prediction.labels.get(group.label):
            members.setdefault(name, []).append(index)
    for indices in members.values():
        first = rows[indices[0]]
        end = f":{scored[indices[0]].labels.get('category', '')}" if group.by_category else ""
        first[f"{group.count}{end}"] = 1.0
        first[f"{group.right}{end}"] = float(all(rows[index]["score"] == 1.0 for index in indices))


def group_name(reference: Reference, *keys: str) -> str:
    """The values of some keys of a sample's JSON as one name; raises DataError when one is missing."""
    values = [reference.meta.get(key) for key in keys]
    for key, value in zip(keys, values, strict=True):
        if not isinstance(value, str | int) or value == "":
            raise DataError(f"the sample needs {key!r} in its JSON: its group is scored as a whole")
    return "/".join(map(str, values))


def text_of(reference: Reference, key: str) -> str:
    """A text or number of a sample's JSON as text, "" where there is none."""
    value = reference.meta.get(key)
    return str(value) if isinstance(value, str | int) else ""


def category_label(reference: Reference) -> Labels:
    """The category of a sample as a label, none where it has none."""
    category = text_of(reference, "category")
    return {"category": category} if category else {}


def means(**columns: str) -> Metrics:
    """Metrics that are the means of columns over all samples, or as COLUMN/OTHER of some by another column."""
    pairs = {name: column.split("/") if "/" in column else (column, "n") for name, column in columns.items()}
    return lambda totals: {name: ratio(totals[one], totals[other]) for name, (one, other) in pairs.items()}


def precision_recall(right: FloatArray, stated: FloatArray, true: FloatArray) -> dict[str, FloatArray]:
    """Precision, recall and F1 from how much is stated, how much is true, and how much is both."""
    return {
        "precision": ratio(right, stated),
        "recall": ratio(right, true),
        "f1": ratio(2 * right, stated + true),
    }


def categories(totals: Columns) -> list[str]:
    """The categories that `tally` counted."""
    return [name.removeprefix("num:") for name in totals if name.startswith("num:")]


def category_metrics(totals: Columns) -> dict[str, FloatArray]:
    """Accuracy, the share of unparsed answers, and the accuracy of each category."""
    return {
        **means(accuracy="score", unparsed_ratio="unparsed")(totals),
        **{f"accuracy:{name}": category_share(totals, name) for name in categories(totals)},
    }


def category_share(totals: Columns, name: str, right: str = "score", count: str = "num") -> FloatArray:
    """The share of one category that is right."""
    return ratio(totals[f"{right}:{name}"], totals[f"{count}:{name}"])
