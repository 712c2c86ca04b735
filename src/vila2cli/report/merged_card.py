"""The data card of merged shards: pictures and captions for tools that know no layers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vila2cli import __version__
from vila2cli.report.data_card import dataset_head
from vila2cli.report.json_reader import JsonReader, real, table_of, whole
from vila2cli.report.markdown import (
    card_name,
    count_rows,
    counts,
    damaged,
    document,
    plain,
    reject_lines,
    section,
    table,
)
from vila2cli.report.run_folder import layer_stats
from vila2cli.settings.recipe import Recipe
from vila2cli.shards.records import add_figures
from vila2cli.text.choose import reached

DRAWN_HEAD = ("source", "share asked", "share reached", "samples", "samples that lack it")


def is_merged(folder: Path, reader: JsonReader) -> bool:
    """Whether a folder is what `vila2 shards merge` writes."""
    path = folder / "manifest.json"
    return path.is_file() and table_of(reader.read(path).get("inputs")).get("stage") == "merge"


def merged_card(folder: Path, recipe: Recipe) -> str:
    """The card of shards in which captions were joined or drawn."""
    reader = JsonReader(folder)
    inputs = table_of(reader.read(folder / "manifest.json").get("inputs"))
    total: dict[str, Any] = {}
    for stats in layer_stats(folder, reader):
        add_figures(total, stats)
    layers = ", ".join(table_of(table_of(inputs).get("layers")))
    name = card_name(folder)
    head = dataset_head(name, whole(total.get("out")))
    rejects = "\n".join(reject_lines(folder, reader, "could not be used"))
    body = [
        f"# {plain(name)}",
        f"WebDataset shards that `vila2 shards merge` {__version__} wrote: {whole(total.get('out')):,} "
        f"pictures, each with a caption in KEY.txt, from layers {plain(layers or 'none')}. What they say of "
        "it is in KEY.json. Captions other than the original are a model's, unchecked by people.",
        section("Captions", _captions(inputs, total)),
        section("Counts", table(["", ""], count_rows(total, "dropped"))),
        section("Known failures", rejects, damaged(reader)),
    ]
    return document(head.to_yaml(), body)


def _captions(inputs: Mapping[str, Any], total: Mapping[str, Any]) -> str:
    shares = {name: share for name, one in table_of(inputs.get("shares")).items() if (share := real(one))}
    if not shares:
        joined = inputs.get("captions")
        return "Joined in this order: " + plain(", ".join(map(str, joined)) if isinstance(joined, list) else "")
    drawn = reached(shares, dict(counts(total.get("drawn"))), dict(counts(total.get("lacking"))))
    seed = whole(inputs.get("seed"))
    about = (
        f"One of these is drawn for each picture, by its key and the seed {seed}; what a picture lacks leaves "
        "its share to the others."
    )
    return f"{about}\n\n{table(DRAWN_HEAD, drawn_rows(drawn))}"


def drawn_rows(drawn: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """The rows of a table under `DRAWN_HEAD`."""
    rows: list[tuple[object, ...]] = []
    for name, found in drawn.items():
        one = table_of(found)
        shares = (f"{100 * (real(one.get(key)) or 0):.2f}%" for key in ("asked", "share"))
        rows.append((name, *shares, *(f"{whole(one.get(key)):,}" for key in ("samples", "lacking"))))
    return rows
