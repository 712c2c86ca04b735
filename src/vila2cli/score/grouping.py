"""Groups of samples that count as one: a group is right when all of its samples are."""

from collections.abc import Sequence

from vila2cli.errors import DataError
from vila2cli.score.scorer import Labels, Reference, Row, Scored
from vila2cli.score.stats import Columns, FloatArray, ratio


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


def add_groups(
    scored: Sequence[Scored], rows: Sequence[Row], label: str, *, right: str, count: str, suffix: str = ""
) -> None:
    """Add to the first row of each group `count` 1 and `right` 1 if all its samples score 1, else 0.

    A sample without the label is in no group. With `suffix` a label is named whose value is added
    to both column names (`right:color`), so that totals come out by category, too.
    """
    members: dict[str, list[int]] = {}
    for index, one in enumerate(scored):
        if name := one.labels.get(label):
            members.setdefault(name, []).append(index)
    for indices in members.values():
        first = rows[indices[0]]
        end = f":{scored[indices[0]].labels.get(suffix, '')}" if suffix else ""
        first[f"{count}{end}"] = 1.0
        first[f"{right}{end}"] = float(all(rows[index]["score"] == 1.0 for index in indices))


def add_categories(scored: Sequence[Scored], rows: Sequence[Row], label: str = "category") -> None:
    """Add `right:CATEGORY` and `num:CATEGORY` to the row of every sample that has a category."""
    for one, row in zip(scored, rows, strict=True):
        if category := one.labels.get(label):
            row[f"right:{category}"], row[f"num:{category}"] = row["score"], 1.0


def fill(rows: Sequence[Row]) -> list[Row]:
    """The rows with the same keys in all of them, 0 where one had none."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, 0.0) for name in names} for row in rows]


def category_label(reference: Reference) -> Labels:
    """The category of a sample as a label, none where it has none."""
    category = text_of(reference, "category")
    return {"category": category} if category else {}


def category_metrics(totals: Columns) -> dict[str, FloatArray]:
    """Accuracy, the share that was not read, and the accuracy of each category."""
    categories = [name.removeprefix("num:") for name in totals if name.startswith("num:")]
    return {
        "accuracy": ratio(totals["score"], totals["n"]),
        "unparsed_ratio": ratio(totals["unparsed"], totals["n"]),
        **{
            f"accuracy:{category}": ratio(totals[f"right:{category}"], totals[f"num:{category}"])
            for category in categories
        },
    }


def by_category(scored: Sequence[Scored]) -> list[Row]:
    """The rows with counts per category: what `complete` is for families that report categories."""
    rows = [dict(one.row) for one in scored]
    add_categories(scored, rows)
    return fill(rows)
