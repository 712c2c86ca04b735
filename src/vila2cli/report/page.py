"""The page itself: everything read from the run folder, handed to the templates, and nothing else.

Text from files reaches the templates as plain strings, which Jinja2 escapes; only SVG built by
`plots` and the package's own style sheet and script are markup. A content security policy in the
page forbids everything but that script.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vila2cli import __version__
from vila2cli.report.all_captions import CaptionList, caption_list, read_all_captions
from vila2cli.report.boxes import BoxedAnswer, boxed_answers
from vila2cli.report.caption_layers import (
    CaptionLayer,
    Words,
    caption_layers,
    count_alt_words,
    written_words,
)
from vila2cli.report.captions import Card, read_cards
from vila2cli.report.decisions import (
    DECISIONS_NOTE,
    FILTER_NOTE,
    DecisionRow,
    FilterRow,
    decision_rows,
    filter_rows,
)
from vila2cli.report.directions import DirectionTable, direction_table
from vila2cli.report.drift import DriftTable, drift_table
from vila2cli.report.figures import Chart, charts
from vila2cli.report.json_reader import JsonReader
from vila2cli.report.judges import JudgeRow, judge_rows, read_judgements
from vila2cli.report.lineage_graph import lineage_graph
from vila2cli.report.paired import bootstrap_of, compare_rounds
from vila2cli.report.records import (
    LedgerRow,
    LineageRow,
    Matrix,
    RejectRow,
    cost_figure,
    cost_tile,
    ledger,
    lineage_rows,
    matrix,
    recaption_costs,
    reject_rows,
    when,
)
from vila2cli.report.results import RoundResult, read_results
from vila2cli.report.run_folder import RunRecord, read_run
from vila2cli.report.saturation import verdict
from vila2cli.report.tables import DifferenceTable, Table, Tile, difference_table, headline_table, tiles
from vila2cli.report.wording import harmless
from vila2cli.run.folder import digest
from vila2cli.settings.recipe import Recipe, resolved_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What the templates show, in the order of the page."""

    name: str
    lead: str
    facts: tuple[tuple[str, str], ...]
    tiles: list[Tile]
    damaged: list[str]
    table: Table
    judges: list[JudgeRow]
    directions: DirectionTable
    charts: list[Chart]
    verdict: list[str]
    differences: DifferenceTable
    cards: list[Card]
    cards_note: str
    drift: DriftTable
    all_captions: CaptionList | None
    boxed: list[BoxedAnswer]
    decisions: list[DecisionRow]
    decisions_note: str
    filters: list[FilterRow]
    filters_note: str
    rejects: list[RejectRow]
    rejects_note: str
    ledger: list[LedgerRow]
    cost_chart: Markup | None
    cost_note: str
    matrix: Matrix
    graph: Markup
    lineage: list[LineageRow]
    settings: list[str]


def build_page(recipe: Recipe, run_dir: Path) -> Page:
    """Read a run folder into a page; what is missing or damaged is said there and raises nothing."""
    reader = JsonReader(run_dir)
    run = read_run(run_dir, reader)
    results = read_results(run)
    judgements = [one for result in results for one in read_judgements(run, result.group)]
    layers = caption_layers(run)
    words = _count_words(recipe, run, layers, reader)
    bootstrap = bootstrap_of(recipe)
    comparisons = compare_rounds(run, results, reader, **bootstrap)
    sentences = verdict(comparisons, results)
    cards, cards_note = read_cards(layers, reader)
    images = read_all_captions(layers, reader)
    captioned = sorted({layer.round for layer in layers})
    rejects, rejects_note = reject_rows(run)
    costs = recaption_costs(run, recipe.cost)
    chart, cost_note = cost_figure(costs)
    return Page(
        name=recipe.name,
        lead=_lead(recipe, results, sentences),
        facts=_facts(recipe, run),
        tiles=tiles(results, words, judgements, cost_tile(costs)),
        table=headline_table(run, results, words, judgements),
        judges=judge_rows(judgements),
        directions=direction_table(run, results, judgements, reader, **bootstrap),
        charts=charts(results, words),
        verdict=sentences,
        differences=difference_table(comparisons, results),
        cards=cards,
        cards_note=cards_note,
        drift=drift_table(images, captioned, **bootstrap),
        all_captions=caption_list(images, captioned),
        boxed=boxed_answers(run_dir, reader),
        decisions=decision_rows(run),
        decisions_note=DECISIONS_NOTE,
        filters=filter_rows(run),
        filters_note=FILTER_NOTE,
        rejects=rejects,
        rejects_note=rejects_note,
        ledger=ledger(run, recipe.cost),
        cost_chart=chart,
        cost_note=cost_note,
        matrix=matrix(run),
        graph=lineage_graph(run),
        lineage=lineage_rows(run),
        settings=resolved_lines(recipe),
        damaged=list(dict.fromkeys(reader.damaged)),
    )


def render_page(page: Page) -> str:
    """The page as one HTML document that loads nothing from anywhere."""
    environment = Environment(
        loader=PackageLoader("vila2cli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    source, _, _ = PackageLoader("vila2cli.report").get_source(environment, "page.js")
    script = f"\n{source}"
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template("page.html.j2").render(
        page=page, version=__version__, script=Markup(script), script_sha256=hashed
    )


def _count_words(
    recipe: Recipe, run: RunRecord, layers: list[CaptionLayer], reader: JsonReader
) -> Mapping[str, Words]:
    """Caption lengths by row; the alt-text is counted in the base shards when no layer knows its length."""
    words = written_words(run, layers, reader)
    alt = words.get("round 0") or count_alt_words(recipe.data.pretrain, reader)
    return words if alt is None else {"round 0": alt, **words}


def _facts(recipe: Recipe, run: RunRecord) -> tuple[tuple[str, str], ...]:
    base = recipe.base
    return (
        (
            "Recipe",
            f"{recipe.path.name if recipe.path else 'defaults'}, digest {digest(recipe.deciding())[:12]}",
        ),
        ("Base", f"{base.architecture}: {base.vision_tower} + {base.llm}"),
        ("Seed", str(recipe.seed)),
        ("Newest file", when(run.newest) or "none yet"),
    )


def _lead(recipe: Recipe, results: tuple[RoundResult, ...], sentences: list[str]) -> str:
    num_done = sum(bool(result.tasks) for result in results if result.is_round and result.group != "round 0")
    if not any(result.tasks for result in results):
        return "Nothing has been evaluated in this run folder yet."
    plural = "round" if recipe.rounds == 1 else "rounds"
    lead = f"{num_done} of {recipe.rounds} self-augmentation {plural} evaluated"
    if any(result.group == "final" and result.tasks for result in results):
        lead += ", and the model retrained with its specialists' answers"
    return f"{lead}. {sentences[0]}"
