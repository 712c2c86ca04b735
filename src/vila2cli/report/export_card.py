"""The card of an export: how it is loaded, what is in it, and the card of the layer that it was made from."""

from pathlib import Path
from typing import Any

from vila2cli import __version__
from vila2cli.errors import DataError
from vila2cli.report.cards import card
from vila2cli.report.data_card import dataset_head
from vila2cli.report.json_reader import JsonReader, whole
from vila2cli.report.markdown import card_name, count_rows, document, plain, section, table
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import Source
from vila2cli.shards.places import is_remote, local_path, redacted

_DATA_FILES = {"parquet": "data/*.parquet", "jsonl": "data/*.jsonl", "webdataset": "*.tar"}


def export_card(folder: Path, form: str, source: Source, recipe: Recipe, *, license: str) -> str:
    """README.md of the folder that an export has written; its files are found by `datasets.load_dataset`."""
    summary = JsonReader(folder).read(folder / "summary.json")
    num_out = whole(summary.get("out"))
    files = _DATA_FILES.get(form)
    loaded: dict[str, Any] = {"configs": [{"config_name": "default", "data_files": files}]} if files else {}
    head = dataset_head(card_name(folder), num_out, form, license=license, **loaded)
    about = (
        f"Written by `vila2 shards export {form}` {__version__}. Captions other than the original ones are "
        "written by a model, unchecked by people. The licence of pictures and captions is that of the base, "
        + ("which nobody has stated here." if license == "unknown" else f"stated as {license}.")
    )
    counted = [(name, f"{whole(summary.get(name)):,}") for name in ("in", "out") if name in summary]
    rows = [*counted, *count_rows(summary, "dropped")]
    layers = [(info.name, redacted(info.path)) for info in source.layers]
    body = [
        f"# {plain(card_name(folder))}",
        about,
        section("Counts", table(["", ""], rows)),
        section("Layers", table(["layer", "where"], layers)),
        _of_newest(source, recipe),
    ]
    return document(head.to_yaml(), body)


def _of_newest(source: Source, recipe: Recipe) -> str:
    """The card of the newest layer that lies on this machine, without its head and title."""
    for info in reversed(source.layers):
        if is_remote(info.path):
            continue
        try:
            text = card(local_path(info.path), recipe)
        except DataError:  # of answers, say
            continue
        return text.rpartition("---\n")[2].partition("\n## ")[1] + text.partition("\n## ")[2]
    return ""
