"""`vila2 judge`: compare caption layers pair by pair on the same samples.

Reads two or more captionings of the same shards, writes a verdict layer over the samples drawn
and summary.json with win rates, biases and the agreement of the judges. (VILA^2 figure 2 judges
captions by round; its judge prompt is not published.)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vila2cli.engine import Engine, EngineSettings, Request, choose_engine, dtype_of, open_engine
from vila2cli.errors import DataError, RecipeError
from vila2cli.image import decode_image
from vila2cli.model.checkpoint import resolve_model, weights_sha256
from vila2cli.progress import Progress
from vila2cli.recipe import Recipe
from vila2cli.run import claim, digest, lock, write_json
from vila2cli.sample import Annotation, Reject, Sample, Turn
from vila2cli.score.caption import count_facts
from vila2cli.score.pairing import Draw, draw_samples
from vila2cli.score.scorer import Vocabulary
from vila2cli.score.verdict import (
    Outcome,
    Pair,
    Verdict,
    oracle_outcome,
    outcome_of,
    read_verdicts,
    summarise_pairs,
)
from vila2cli.shards import LayerWriter, Shard, ShardWriter, open_layer
from vila2cli.stopping import Stop, interruptible
from vila2cli.text.compose import neutral
from vila2cli.text.prompts import PROMPTS, prompt_sha256
from vila2cli.world.scenes import VOCABULARY

LAYER = "judge"
PROMPT_ID = "judge-pair-v1"
ORACLE, MODEL = "oracle", "model"


@dataclass(frozen=True, slots=True)
class _Contest:
    """One drawn sample with its caption by layer."""

    sample: Sample
    captions: Mapping[str, str]


def judge(
    recipe: Recipe,
    *,
    layers: Sequence[str | Path],
    out: str | Path,
    shards: Sequence[str] = (),
    model: str | Path | None = None,
    base: str | None = None,
    round: int | None = None,
) -> dict[str, Any]:
    """Judge every pair of `layers` (folders, or "alt-text"; oldest first) and return what summary.json holds.

    A win is one of the later layer over the earlier one. The judge "model" asks the checkpoint
    `model` in both orders; "oracle" counts facts where samples have a scene. Complete shards are
    not judged again. Raises RecipeError for settings that do not fit, DataError for layers that do
    not belong together, or when no judge could judge any sample.
    """
    judges = recipe.judge.judges
    if MODEL in judges and model is None:
        raise RecipeError('the judge "model" needs a checkpoint: give --model, or set judge.judges=["oracle"]')
    draw = draw_samples(layers, shards, num_samples=recipe.judge.num_samples, seed=recipe.seed, base=base)
    folder = Path(out)
    with lock(folder), interruptible() as stop:
        with stop.at_once():
            asked = _ModelJudge(recipe, model, stop) if MODEL in judges and model is not None else None
        protocol = {"judges": list(judges), "layers": list(draw.layers), **(asked.protocol() if asked else {})}
        content = {"captions": digest(draw.drawn), "shards": draw.source.outline()}
        manifest = claim(folder, {"stage": "judge", "round": round, **protocol, **content}, recipe)
        writer = open_layer(folder, layer=LAYER, source=draw.source, manifest={"digest": manifest.digest})
        blank = Annotation(layer=LAYER, kind="verdict", round=round)
        bench = _Bench(draw, ORACLE in judges, asked, asked.sign(blank) if asked else blank, stop)
        bench.judge_missing(writer)
        lineage = {"model": asked.model if asked else None, "round": round, "protocol": protocol}
        summary = _summary(recipe, draw, writer) | lineage
        write_json(folder / "summary.json", summary)
    return summary


@dataclass(frozen=True, slots=True)
class _Bench:
    """The judges of one run; `blank` is the annotation that every sample's verdicts are put into."""

    draw: Draw
    with_oracle: bool
    asked: "_ModelJudge | None"
    blank: Annotation
    stop: Stop

    def judge_missing(self, writer: LayerWriter) -> None:
        """Write the verdict shards that are not there yet."""
        with self.stop.at_once():
            missing = writer.missing(self.draw.source.shards)
        total = sum(len(self.draw.drawn[shard.name]) for shard in missing)
        with Progress("judge", total, "samples", writer.folder / "log.jsonl") as progress:
            for shard in missing:
                self.stop.check()
                with writer.shard(shard) as writing:
                    self._judge_shard(shard, writing, progress)

    def _judge_shard(self, shard: Shard, writing: ShardWriter, progress: Progress) -> None:
        contests = list(_contests(self.draw, shard, writing))
        by_model: dict[str, list[Verdict]] = {}
        if self.asked and contests:
            by_model = self.asked.verdicts(self.draw, shard, contests, writing, progress)
            contests = [contest for contest in contests if contest.sample.key in by_model]
        for contest in contests:
            verdicts = _oracle_verdicts(self.draw, contest) if self.with_oracle else []
            verdicts += by_model.get(contest.sample.key, [])
            scores = {"verdicts": [verdict.to_json() for verdict in verdicts]}
            writing.annotate(contest.sample, replace(self.blank, scores=scores))
            progress.advance()


def _contests(draw: Draw, shard: Shard, writing: ShardWriter) -> Iterator[_Contest]:
    for sample in writing.samples():
        captions = draw.captions_of(shard, sample)
        if captions is None:
            writing.skip(sample, "not-drawn")
        elif not all(text.strip() for text in captions.values()):
            writing.skip(sample, "no-caption")
        else:
            yield _Contest(sample, captions)


def _verdict(
    contest: _Contest, pair: Pair, judge: str, outcome: Outcome, answers: tuple[str, ...] = ()
) -> Verdict:
    layer, against = pair
    words = (len(contest.captions[layer].split()), len(contest.captions[against].split()))
    return Verdict(layer=layer, against=against, judge=judge, outcome=outcome, num_words=words, answers=answers)


def _oracle_verdicts(draw: Draw, contest: _Contest) -> list[Verdict]:
    """Exact verdicts where the sample has a scene of the world; elsewhere the oracle cannot judge."""
    words = Vocabulary(**VOCABULARY)
    try:
        scene = contest.sample.meta.get("scene", {})
        counts = {name: count_facts(text, scene, words) for name, text in contest.captions.items()}
    except DataError:
        return [_verdict(contest, pair, ORACLE, "unjudged") for pair in draw.pairs]
    return [
        _verdict(contest, (layer, against), ORACLE, oracle_outcome(counts[layer], counts[against]))
        for layer, against in draw.pairs
    ]


class _ModelJudge:
    """A checkpoint that is shown two captions in both orders; it is loaded when the first pair is due."""

    def __init__(self, recipe: Recipe, model: str | Path, stop: Stop):
        self.settings, self.model, self.stop = recipe.judge, str(model), stop
        self.model_sha256 = weights_sha256(resolve_model(model))
        self.engine_name = choose_engine(recipe.judge.engine, model).kind
        self.dtype = dtype_of(self.engine_name, model, recipe.judge.dtype)
        self._engine: Engine | None = None

    def protocol(self) -> dict[str, Any]:
        """What decides the answers."""
        return {
            "model_sha256": self.model_sha256,
            "engine": self.engine_name,
            "temperature": 0.0,
            "max_new_tokens": self.settings.max_new_tokens,
            "prompt_id": PROMPT_ID,
            "prompt_sha256": prompt_sha256(PROMPT_ID),
            **({} if self.settings.dtype == "auto" else self.dtype),  # the weights decide their own
        }

    def sign(self, annotation: Annotation) -> Annotation:
        """The annotation with where its verdicts come from."""
        return replace(
            annotation,
            model=self.model,
            model_sha256=self.model_sha256,
            prompt_id=PROMPT_ID,
            prompt_sha256=prompt_sha256(PROMPT_ID),
            sampling={
                "engine": self.engine_name,
                "temperature": 0.0,
                **self.dtype,
                "max_new_tokens": self.settings.max_new_tokens,
            },
        )

    def verdicts(
        self, draw: Draw, shard: Shard, contests: Sequence[_Contest], writing: ShardWriter, progress: Progress
    ) -> dict[str, list[Verdict]]:
        """Verdicts by key on all pairs; a sample whose picture cannot be decoded is rejected and left out."""
        answers: dict[str, str] = {}
        usable: list[_Contest] = []
        requests = self._requests(draw.pairs, shard, contests, usable, writing)
        for result in self._open(progress).generate(requests):
            self.stop.check()
            answers[result.id] = f"({result.error})" if result.error is not None else result.text
            writing.count(tokens=result.num_tokens)
        return {
            contest.sample.key: [_model_verdict(contest, pair, answers) for pair in draw.pairs]
            for contest in usable
        }

    def _open(self, progress: Progress) -> Engine:
        if self._engine is None:
            settings = EngineSettings(dtype=self.settings.dtype)
            self._engine = open_engine(self.engine_name, self.model, settings, self.stop)
            for note in self._engine.notes:
                progress.note(note)
        return self._engine

    def _requests(
        self,
        pairs: Sequence[Pair],
        shard: Shard,
        contests: Sequence[_Contest],
        usable: list[_Contest],
        writing: ShardWriter,
    ) -> Iterator[Request]:
        """Two requests for each pair of different captions; contests that were decoded go to `usable`."""
        for contest in contests:
            try:
                images = tuple(decode_image(image.data) for image in contest.sample.images)
            except DataError as error:
                writing.reject(Reject(shard.name, contest.sample.key, "image", str(error)))
                continue
            usable.append(contest)
            for pair in pairs:
                if contest.captions[pair[0]] == contest.captions[pair[1]]:
                    continue
                for shown in (pair, pair[::-1]):
                    a, b = (neutral(contest.captions[name]) for name in shown)
                    yield Request(
                        id=_request_id(contest, *shown),
                        messages=(Turn("user", PROMPTS[PROMPT_ID].format(a=a, b=b)),),
                        images=images,
                        max_new_tokens=self.settings.max_new_tokens,
                        group=shard.name,
                    )


def _request_id(contest: _Contest, a: str, b: str) -> str:
    return "\n".join((contest.sample.key, a, b))


def _model_verdict(contest: _Contest, pair: Pair, answers: Mapping[str, str]) -> Verdict:
    """A win or loss that holds in both orders; equal captions are a tie without asking."""
    layer, against = pair
    if contest.captions[layer] == contest.captions[against]:
        return _verdict(contest, pair, MODEL, "tie")
    shown = (answers[_request_id(contest, layer, against)], answers[_request_id(contest, against, layer)])
    return _verdict(contest, pair, MODEL, outcome_of(*shown), shown)


def _summary(recipe: Recipe, draw: Draw, writer: LayerWriter) -> dict[str, Any]:
    stats = writer.finish()
    verdicts = read_verdicts(writer.folder)
    figures = summarise_pairs(verdicts, draw.pairs, recipe.judge.judges)
    if not any(one["num_pairs"] for pair in figures["pairs"] for one in pair["judges"].values()):
        raise DataError(
            f"no judge could judge any of {len(verdicts)} samples: the oracle needs a scene in KEY.json, "
            "and a model has to answer A or B; see judge.judges"
        )
    return {
        **figures,
        "num_samples": stats.num_out,
        "num_candidates": draw.num_candidates,
        "num_rejected": stats.num_rejected,
        "dropped": dict(stats.dropped),
        "num_drawn": sum(len(keys) for keys in draw.drawn.values()),
        "seed": recipe.seed,
        "seconds": round(stats.seconds, 3),
    }
