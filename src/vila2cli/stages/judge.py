"""`vila2 judge`: compare caption layers pair by pair on the same samples.

Reads two or more captionings of the same shards, writes a verdict layer of each judge over the
samples drawn and summary.json with win rates, biases and the agreement of the judges. Workers share the
shards of all judges; the one that finds the last of them judged writes summary.json. (VILA^2 figure 2
judges captions by round; its judge prompt is not published.)
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from vila2cli.ask.annotate import annotate
from vila2cli.ask.engines import LimitedEngine
from vila2cli.ask.fill import Part
from vila2cli.ask.kept_answers import ANSWERS_FILE, Answers
from vila2cli.ask.pool import replicas_of
from vila2cli.errors import BudgetError, DataError
from vila2cli.files import one_at_a_time
from vila2cli.judging.judges import LAYER, Judge, ModelJudge, judging_models, open_judges
from vila2cli.judging.pairing import Draw, draw_samples
from vila2cli.judging.results import CUT
from vila2cli.judging.verdicts import Judgements, read_verdict_layer, summarise_judges
from vila2cli.run.drafting import as_begun
from vila2cli.run.folder import claim, digest, write_json
from vila2cli.run.locks import lock
from vila2cli.run.splitting import Unfinished, split, unfinished
from vila2cli.run.stopping import Stop, interruptible
from vila2cli.run.workers import Worker
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import LayerWriter, Shard, ShardStats, layer_tar, open_layer
from vila2cli.shards.annotations import read_annotation_tar
from vila2cli.shards.records import stats_path
from vila2cli.shards.rejects import MAY_PASS, OVER_BUDGET


def judge(
    recipe: Recipe,
    *,
    layers: Sequence[str | Path],
    out: str | Path,
    shards: Sequence[str] = (),
    model: str | Path | None = None,
    base: str | None = None,
    round: int | None = None,
    worker: Worker | None = None,
) -> Judgements | Unfinished:
    """Judge every pair of `layers` (folders, or "alt-text"; oldest first) and write summary.json.

    A win is one of the later layer over the earlier one. The judge "model" asks `model`, others the
    models of [judges.NAME]; "oracle" counts facts where samples have a scene. Each writes the layer
    `out`/NAME. A worker judges its part of the shards; while others have theirs to do, what is returned
    says how far all are. Complete shards are not judged again, but for pairs that no
    answer came to, and no question is asked again that was answered. Raises RecipeError for settings that
    do not fit, DataError for layers that do not belong together, and once all is written BudgetError when
    pairs were left for want of budget and DataError when no judge could judge any sample.
    """
    models = judging_models(recipe, model)
    draw = draw_samples(layers, shards, num_samples=recipe.judge.num_samples, seed=recipe.seed, base=base)
    folder, worker = Path(out), worker or Worker()
    recipe = as_begun(recipe, [folder])
    answers_path = Path(recipe.judge.answers) if recipe.judge.answers else folder / ANSWERS_FILE
    with lock(folder, worker), interruptible() as stop, ExitStack() as stack:
        compared = {
            "layers": list(draw.layers),
            "captions": digest(draw.drawn),
            "shards": draw.source.outline(),
        }
        claim(folder, {"stage": "judge", "round": round, **compared}, recipe)
        answers = stack.enter_context(Answers(answers_path, worker)) if models else None
        with stop.at_once():
            judges = open_judges(recipe, models, draw, round)
        written = {judge.name: _open_layer(recipe, folder, judge, compared, round) for judge in judges}
        mine = split(folder, dict.fromkeys(written, draw.source.shards), worker)
        with stop.at_once(), one_at_a_time(folder):  # nobody sums up what is about to be asked again
            forgotten = [_forget_unanswered(layer.folder, mine[name]) for name, layer in written.items()]
            if any(forgotten):
                (folder / "summary.json").unlink(missing_ok=True)
        spent = [
            _judge_missing(judge, written[judge.name], mine[judge.name], answers, worker, stop)
            for judge in judges
        ]
        budget = next(filter(None, spent), "")
        with ExitStack() as held:
            with stop.at_once():
                held.enter_context(one_at_a_time(folder))
            if (progress := unfinished(folder, "judged")) is not None:
                _check_finished(budget, progress)
                return progress
            summary = _summary(recipe, draw, written) | _lineage(judges, draw, round)
            write_json(folder / "summary.json", summary)
    _check_budget(budget, summary)
    _check_judged(summary)
    return Judgements.of(summary)


def is_judged(summary: Mapping[str, Any], recipe: Recipe) -> bool:
    """Whether a summary is of all judges of the recipe, with no pair left that could be asked about again."""
    if not _num_judged(summary):
        return False
    words = {word for reasons in summary.get("unjudged_reasons", {}).values() for word in reasons}
    return set(recipe.judge.judges) <= set(summary.get("judges", ())) and not words & set(MAY_PASS)


def _open_layer(
    recipe: Recipe, folder: Path, judge: Judge, compared: Mapping[str, Any], round: int | None
) -> LayerWriter:
    """The verdict layer of a judge."""
    own, source = folder / judge.name, judge.draw.source
    inputs = {"stage": "judge", "judge": judge.name, "round": round, **judge.protocol(), **compared}
    manifest = claim(own, inputs, model=judge.asked.name if isinstance(judge, ModelJudge) else "")
    return open_layer(
        own,
        layer=LAYER,
        source=source,
        manifest={"digest": manifest.digest},
        is_packed=recipe.data.compress_layers,
    )


def _judge_missing(
    judge: Judge,
    layer: LayerWriter,
    shards: Sequence[Shard],
    answers: Answers | None,
    worker: Worker,
    stop: Stop,
) -> str:
    """Write those of the shards that are not there yet; returns what was said if a budget ended, else ""."""
    with stop.at_once():
        missing = layer.missing(shards)
    fill = partial(annotate, title=f"judge {judge.name}", stop=stop, unit="samples")
    part = Part(layer, judge, missing, counted=judge.draw.drawn)
    if not isinstance(judge, ModelJudge):
        fill(None, [part])
        return ""
    assert answers is not None, "there are answers where there are models"
    if missing:
        judge.asked.look(stop)
    replicas = replicas_of(judge.asked, worker, stop, len(missing), answers=answers.path, limits=judge.limits)
    if replicas is not None:
        with replicas:
            fill(replicas, [part])
        answers.refresh()
        return ""
    limited = LimitedEngine(judge.asked.open(stop))
    fill(judge.asked.keeping(limited, answers, judge.limits), [part])
    return limited.spent


def _forget_unanswered(folder: Path, shards: Sequence[Shard]) -> int:
    """Remove those of the shards with pairs that may be answered now; their other answers are known.

    Returns how many there were.
    """
    num = 0
    for tar in [tar for shard in shards if (tar := layer_tar(folder, shard.name)).is_file()]:
        reasons = {
            str(verdict.get("reason", "")).partition(":")[0]
            for _, annotation in read_annotation_tar(tar)
            for verdict in annotation.scores.get("verdicts", ())
        }
        if reasons & set(MAY_PASS):
            num += 1
            stats_path(tar).unlink(missing_ok=True)
            tar.unlink()
    return num


def _summary(recipe: Recipe, draw: Draw, layers: Mapping[str, LayerWriter]) -> dict[str, Any]:
    stats = {name: layer.finish() for name, layer in layers.items()}
    verdicts = {name: read_verdict_layer(layer.folder) for name, layer in layers.items()}
    figures = summarise_judges(verdicts, draw.pairs, num_bootstrap=recipe.judge.num_bootstrap, seed=recipe.seed)
    num_fewer_tiles = sum(of_judge.num_fewer_tiles for of_judge in stats.values())
    judged_by_all = set.intersection(*(set(of_judge) for of_judge in verdicts.values()))
    return {
        **figures,
        "num_samples": len(judged_by_all),
        "num_candidates": draw.num_candidates,
        **({"num_lacking": draw.num_lacking} if draw.num_lacking else {}),
        "num_rejected": max(of_judge.num_rejected for of_judge in stats.values()),
        "dropped": _most(stats),
        "num_drawn": sum(len(keys) for keys in draw.drawn.values()),
        "seed": recipe.seed,
        **({"fewer_tiles": num_fewer_tiles} if num_fewer_tiles else {}),
        "seconds": round(sum(of_judge.seconds for of_judge in stats.values()), 3),
    }


def _most(stats: Mapping[str, ShardStats]) -> dict[str, int]:
    """Samples left out by reason, by the judge who left out most."""
    dropped = [of_judge.dropped for of_judge in stats.values()]
    return {reason: max(counts.get(reason, 0) for counts in dropped) for reason in sorted({*chain(*dropped)})}


def _lineage(judges: Sequence[Judge], draw: Draw, round: int | None) -> dict[str, Any]:
    """Who judged, and how; of a lone model the protocol is that of the run."""
    models = [judge for judge in judges if isinstance(judge, ModelJudge)]
    protocol = {"judges": [judge.name for judge in judges], "layers": list(draw.layers)}
    if models:
        protocol |= models[0].protocol()
    more = {judge.name: {"model": judge.asked.name, **judge.protocol()} for judge in models}
    return {
        "model": models[0].asked.name if models else None,
        "round": round,
        "protocol": protocol,
        **({"models": more} if len(more) > 1 else {}),
    }


def _check_finished(budget: str, progress: Unfinished) -> None:
    """Raise BudgetError when this worker's budget is spent, while others have shards to judge."""
    if budget:
        raise BudgetError(
            f"{budget}; {progress.num_shards_done} of {progress.num_shards} shards are judged, and some lack "
            "answers"
        )


def _check_budget(budget: str, summary: Mapping[str, Any]) -> None:
    """Raise BudgetError when pairs were left for want of budget, now that the rest is written."""
    left = sum(reasons.get(OVER_BUDGET, 0) for reasons in summary["unjudged_reasons"].values())
    if left:
        raise BudgetError(
            f"{left} pairs were not judged, see unjudged in summary.json: {budget or 'the budget is spent'}"
        )


def _num_judged(summary: Mapping[str, Any]) -> int:
    """Pairs that were judged, over all judges."""
    return sum(counts["num_pairs"] for pair in summary.get("pairs", ()) for counts in pair["judges"].values())


_LACKING = "left out were {}, no-caption where a layer or alt-text has none; "
_UNREAD = "the oracle needs a scene in KEY.json, and a model has to answer as its prompt asks; unjudged: {}"


def _check_judged(summary: Mapping[str, Any]) -> None:
    """Raise DataError when no judge could judge anything, now that summary.json says why."""
    if not _num_judged(summary):
        reasons = summary["unjudged_reasons"]
        is_cut = any(CUT in counts for counts in reasons.values())
        raise DataError(
            f"no judge could judge any of {summary['num_drawn']} samples: "
            + _LACKING.format(summary["dropped"]) * bool(summary["dropped"])
            + _UNREAD.format(reasons) * (summary["num_samples"] > 0)
            + ("; for replies that were cut off raise judge.max_new_tokens" if is_cut else "")
        )
