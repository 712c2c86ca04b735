"""The page itself: everything read from the run folder, handed to the templates, and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vila2cli import __version__
from vila2cli.report.all_captions import CaptionList, caption_list, read_all_captions
from vila2cli.report.bookkeeping import (
    CostSection,
    cost_section,
    cost_tile,
    lineage_table,
    matrix,
    recaption_costs,
    reject_table,
    when,
)
from vila2cli.report.boxed_answers import BoxedAnswer, boxed_answers
from vila2cli.report.caption_layers import caption_layers, count_alt_words, written_words
from vila2cli.report.captions import CaptionSection, caption_section
from vila2cli.report.charts import Chart, charts
from vila2cli.report.decisions import decision_table, filter_table
from vila2cli.report.directions import direction_table
from vila2cli.report.drift import drift_table
from vila2cli.report.headline import HeadlineTable, Tile, headline_table, tiles
from vila2cli.report.json_reader import JsonReader
from vila2cli.report.judgements import judge_table, read_judgements
from vila2cli.report.lineage_graph import lineage_graph
from vila2cli.report.own_recipe import OwnRecipe, own_recipe
from vila2cli.report.paired import bootstrap_of, compare_rounds, difference_table
from vila2cli.report.results import RoundResult, read_results
from vila2cli.report.run_folder import RunRecord, read_run
from vila2cli.report.saturation import verdict
from vila2cli.report.tables import Table
from vila2cli.report.wording import visible
from vila2cli.settings.recipe import Recipe
from vila2cli.text.html import render_html


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPage:
    """What the templates show, in the order of the page."""

    name: str
    lead: str
    facts: tuple[tuple[str, str], ...]
    tiles: list[Tile]
    damaged: list[str]
    headline: HeadlineTable
    charts: list[Chart]
    judges: Table
    directions: Table
    verdict: list[str]
    differences: Table
    drift: Table
    captions: CaptionSection
    all_captions: CaptionList | None
    boxed: list[BoxedAnswer]
    decisions: Table
    filters: Table
    rejects: Table
    costs: CostSection
    matrix: Table
    graph: Markup
    lineage: Table
    settings: Sequence[str]
    settings_note: str
    differing: Table


def build_page(given: Recipe | None, run_dir: Path) -> ReportPage:
    """Read a run folder into a page; what is missing or damaged is reported there and raises nothing.

    The recipe is the run's own (`own_recipe`); the one `given` says prices, and stands in for it where no
    stage stored one.
    """
    reader = JsonReader(run_dir)
    run = read_run(run_dir, reader)
    own = own_recipe(run, given, reader)
    recipe = own.recipe
    results = read_results(run)
    judgements = [judgement for result in results for judgement in read_judgements(run, result.group)]
    layers = caption_layers(run)
    words = written_words(run, layers, reader)
    # The alt-text is counted in the base shards when no layer knows its length.
    if alt := words.get("round 0") or count_alt_words(recipe.data.pretrain, reader):
        words = {"round 0": alt, **words}
    bootstrap = bootstrap_of(recipe)
    comparisons = compare_rounds(run, results, reader, **bootstrap)
    sentences = verdict(comparisons, results, own.flags)
    captions = caption_section(layers, reader)
    images = read_all_captions(layers, reader)
    captioned = sorted({layer.round for layer in layers})
    return ReportPage(
        name=visible(own.told.get("name") or run_dir.resolve().name, 200),
        lead=_lead(own, results, sentences),
        facts=_facts(own, run),
        tiles=tiles(results, words, judgements, cost_tile(recaption_costs(run, recipe.cost))),
        headline=headline_table(run, results, words, judgements),
        charts=charts(results, words),
        judges=judge_table(judgements),
        directions=direction_table(run, results, judgements, reader, **bootstrap),
        verdict=sentences,
        differences=difference_table(comparisons, results),
        drift=drift_table(images, captioned, **bootstrap),
        captions=captions,
        all_captions=caption_list(images, captioned),
        boxed=boxed_answers(run_dir, reader),
        decisions=decision_table(run),
        filters=filter_table(run),
        rejects=reject_table(run),
        costs=cost_section(run, recipe.cost),
        matrix=matrix(run),
        graph=lineage_graph(run),
        lineage=lineage_table(run),
        settings=own.lines,
        settings_note=own.note,
        differing=own.differing,
        damaged=list(dict.fromkeys(reader.damaged)),
    )


def render_page(page: ReportPage) -> str:
    """The page as one HTML document that loads nothing from anywhere."""
    return render_html("vila2cli.report", "page.html.j2", {"script": "page.js"}, page=page, version=__version__)


def _facts(own: OwnRecipe, run: RunRecord) -> tuple[tuple[str, str], ...]:
    facts = (
        ("Recipe", own.about),
        ("Base", _started_from(own.told)),
        ("Seed", str(own.told.get("seed", ""))),
        ("Newest file", when(run.newest) or "none yet"),
    )
    return tuple((name, visible(value, 300)) for name, value in facts if value)


def _started_from(told: Mapping[str, Any]) -> str:
    """What the rounds are trained from, "" where the recipe is not known."""
    if model := told.get("pretrain.model"):
        return f"{model}, from which every round continues"
    if not {"base.architecture", "base.vision_tower", "base.llm"} <= told.keys():
        return ""
    started = f"{told['base.architecture']}: {told['base.vision_tower']} + {told['base.llm']}"
    method = told.get("base.tiles.method", "none")
    return started if method == "none" else f"{started}, up to {told.get('base.tiles.max')} tiles ({method})"


def _lead(own: OwnRecipe, results: tuple[RoundResult, ...], sentences: list[str]) -> str:
    num_done = sum(bool(result.tasks) for result in results if result.is_round and result.group != "round 0")
    if not any(result.tasks for result in results):
        return "Nothing has been evaluated in this run folder yet."
    # A run may have gone on with more rounds than its recipe names.
    planned = max(own.told["rounds"], num_done) if "rounds" in own.told else None
    plural = "round" if (num_done if planned is None else planned) == 1 else "rounds"
    lead = f"{num_done}{'' if planned is None else f' of {planned}'} self-augmentation {plural} evaluated"
    if any(result.group == "final" and result.tasks for result in results):
        lead += ", and the model retrained with its specialists' answers"
    return f"{lead}. {sentences[0]}"
