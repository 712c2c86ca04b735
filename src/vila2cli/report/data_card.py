"""The data card of an annotation layer: its manifest, summary, rejects, and what judges made of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila2cli import __version__
from vila2cli.errors import RecipeError
from vila2cli.report.figures import figure_of, figure_text
from vila2cli.report.json_reader import JsonReader, real, table_of, tables_of, whole
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
from vila2cli.report.wording import compact, dollars, duration, number
from vila2cli.settings.recipe import Recipe
from vila2cli.shards.places import redacted
from vila2cli.text.prompts import prompt_sha256, prompt_text

if TYPE_CHECKING:
    from huggingface_hub import DatasetCardData

MAX_BASES = 20


def data_card(folder: Path, recipe: Recipe) -> str:
    """The card of a layer of captions or of specialists' answers."""
    reader = JsonReader(folder)
    layer, summary = reader.read(folder / "layer.json"), reader.read(folder / "summary.json")
    inputs = table_of(reader.read(folder / "manifest.json").get("inputs"))
    stats = layer_stats(folder, reader)
    num_out, num_in = (sum(whole(shard.get(key)) for shard in stats) for key in ("out", "in"))
    base = layer.get("base")
    num_shards = len(base) if isinstance(base, list) else 0
    name = card_name(folder)
    head = dataset_head(name, num_out)
    about = (
        f"An annotation layer that `vila2 {plain(summary.get('stage', layer.get('layer', '')))}` {__version__} "
        f"wrote over WebDataset shards: {num_out:,} annotations for {num_in:,} images. It holds text alone; "
        "`vila2 shards merge` joins it with the pictures. The text is written by a model, unchecked by people."
    )
    if len(stats) < num_shards:
        about += f" It is not finished: {len(stats)} of {num_shards} shards are there."
    made = [
        ("model", summary.get("model", "")),
        ("its weights (SHA-256)", summary.get("model_sha256") or inputs.get("model_sha256", "")),
        ("round", "" if summary.get("round") is None else summary["round"]),
        ("digest of what decides it", layer.get("digest", "")),
    ]
    body = [
        f"# {plain(name)}",
        about,
        section("Made by", table(["", ""], [row for row in made if row[1] != ""])),
        section("Base", table(["shard", "where"], _base_rows(layer))),
        section("Prompts", table(["id", "images", "text"], prompt_rows(summary, inputs, recipe))),
        section("Counts", table(["", ""], _count_rows(summary))),
        section("Scores", _scores(folder, reader)),
        section("Cost", _layer_cost(summary)),
        section("Known failures", _layer_failures(folder, summary, reader), damaged(reader)),
    ]
    return document(head.to_yaml(), body)


def _base_rows(layer: Mapping[str, Any]) -> list[tuple[object, ...]]:
    shards = tables_of(layer.get("base"))
    rows: list[tuple[object, ...]] = [
        (shard.get("name", ""), redacted(str(shard.get("url", "")))) for shard in shards[:MAX_BASES]
    ]
    return [*rows, (f"and {len(shards) - MAX_BASES} more", "")] if len(shards) > MAX_BASES else rows


def prompt_rows(
    summary: Mapping[str, Any], inputs: Mapping[str, Any], recipe: Recipe
) -> list[tuple[object, ...]]:
    """Each prompt with its text, as far as the text known now hashes to what the layer recorded."""
    used = dict(counts(summary.get("prompts")))
    rows: list[tuple[object, ...]] = []
    for name, sha256 in table_of(inputs.get("prompts")).items():
        try:
            same = prompt_sha256(name, recipe.prompts) == sha256
            text = prompt_text(name, recipe.prompts) if same else "its text has changed since"
        except RecipeError:
            text = "its text is not in this recipe"
        rows.append((name, used.get(name, ""), text))
    return rows


def _count_rows(summary: Mapping[str, Any]) -> list[tuple[object, ...]]:
    words = table_of(summary.get("words"))
    counted = [key for key in ("in", "out", "asked", "rejected", "retries") if key in summary]
    rows: list[tuple[object, ...]] = [(key, f"{whole(summary[key]):,}") for key in counted]
    if (share := real(summary.get("yield"))) is not None:
        rows.append(("yield", f"{share:.1%}"))
    if (mean := real(words.get("mean"))) is not None:
        rows.append(("words", f"{mean:.1f} ± {real(words.get('sd')) or 0:.1f}"))
    return [*rows, *count_rows(summary, "dropped"), *count_rows(summary, "kept")]


def _scores(folder: Path, reader: JsonReader) -> str:
    rows: list[tuple[object, ...]] = []
    for pair in tables_of(reader.read(folder.parent / "judge" / "summary.json").get("pairs")):
        # The run folder may have moved, but not what it is called in it: every round has a "recaption".
        place = Path(str(pair.get("layer", "")))
        if place.parts[-2:] != folder.resolve().parts[-2:]:
            continue
        for judge, figures in table_of(pair.get("judges")).items():
            rate = figure_of(table_of(figures).get("win_rate"))
            rows.append((judge, pair.get("against", ""), figure_text(rate)))
    return table(["judge", "over", "preferred, 95% interval"], rows) or "No judge has compared this layer."


def _layer_cost(summary: Mapping[str, Any]) -> str:
    cost = table_of(summary.get("cost"))
    if (seconds := real(cost.get("seconds"))) is None:
        return ""
    price = real(cost.get("dollars_per_1k_images"))
    values = [
        ("time", duration(seconds)),
        (str(cost.get("device", "hours")), number(real(cost.get("hours")) or 0.0, 3)),
        ("images per second", compact(real(cost.get("images_per_s")) or 0.0)),
        ("dollars per 1,000 images", dollars(price) if price else "no price set"),
    ]
    return table(["", ""], values)


def _layer_failures(folder: Path, summary: Mapping[str, Any], reader: JsonReader) -> str:
    kinds = {"defects": "attempts failed a check", "fallbacks": "images fell back to their alt-text"}
    lines = [
        f"- {count:,} {what}: {plain(name)}"
        for kind, what in kinds.items()
        for name, count in counts(summary.get(kind))
    ]
    lines += reject_lines(folder, reader, "got no annotation")
    return "\n".join(lines) or "None is on record; what the text gets wrong is only known where it was judged."


def dataset_head(name: str, num_out: int, form: str = "webdataset", **more: Any) -> "DatasetCardData":
    """The YAML of a card of captions that a model wrote, in a format of `datasets`."""
    from huggingface_hub import DatasetCardData

    return DatasetCardData(
        pretty_name=name,
        annotations_creators=["machine-generated"],
        source_datasets=["extended"],
        task_categories=["image-to-text"],
        size_categories=[size_category(num_out)] if num_out else None,
        tags=["vila2", "synthetic captions", form],
        **more,
    )


def size_category(num: int) -> str:
    """The class of the Hub for a number of samples: n<1K, 1K<n<10K ..."""
    bounds = [(10 ** (3 * i + j), f"{10**j}{unit}") for i, unit in enumerate("KMBT", 1) for j in range(3)]
    below = [name for bound, name in bounds if bound <= num][-1:]
    above = [name for bound, name in bounds if bound > num][:1]
    return "<".join([*below, "n", *above])
