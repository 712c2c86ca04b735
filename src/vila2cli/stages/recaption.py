"""Write a new caption for every pretraining image with the last round's model (VILA^2 section 2.1)."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.cost import Cost
from vila2cli.engine import EngineSettings, Request, Result, open_engine
from vila2cli.engine.annotator import Annotator
from vila2cli.errors import DataError, RejectBudgetError
from vila2cli.image import DEFAULT_MAX_PIXELS, decode_image
from vila2cli.model.checkpoint import resolve_model, weights_sha256
from vila2cli.progress import Progress
from vila2cli.recipe import Recipe
from vila2cli.run import Stop, Worker, claim, interruptible, lock, select, write_json
from vila2cli.sample import Annotation, Reject, Sample, Turn
from vila2cli.shards import LayerWriter, Shard, ShardWriter, Source, num_samples, open_layer, open_source
from vila2cli.text.prompts import draw_prompt, prompt_sha256, prompt_text, stable_hash
from vila2cli.text.quality import check_caption, num_words

LAYER = "recaption"
NOT_SELECTED = "not-selected"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecaptionSummary:
    """What a caption layer holds so far, summed over its complete shards and all workers.

    `words` and `alt_text_words` are mean and standard deviation per caption (VILA^2 table 1).
    `num_cut` counts captions cut back to their last full sentence.
    """

    out: str
    round: int
    model: str
    model_sha256: str
    num_shards: int
    num_shards_done: int
    num_in: int
    num_out: int
    dropped: Mapping[str, int]
    num_rejected: int
    num_tokens: int
    words: tuple[float, float]
    alt_text_words: tuple[float, float]
    num_cut: int
    finish_reasons: Mapping[str, int]
    prompts: Mapping[str, int]
    cost: Cost

    @property
    def num_selected(self) -> int:
        return self.num_in - self.dropped.get(NOT_SELECTED, 0)

    @property
    def reject_rate(self) -> float:
        """Rejected images as a share of those that were to be captioned."""
        return self.num_rejected / self.num_selected if self.num_selected else 0.0

    def to_json(self) -> dict[str, Any]:
        """The content of summary.json."""
        return {
            "stage": LAYER,
            "round": self.round,
            "model": self.model,
            "model_sha256": self.model_sha256,
            "num_shards": self.num_shards,
            "num_shards_done": self.num_shards_done,
            "in": self.num_in,
            "out": self.num_out,
            "dropped": dict(self.dropped),
            "rejected": self.num_rejected,
            "reject_rate": self.reject_rate,
            "images": self.cost.num_images,
            "tokens": self.num_tokens,
            "words": {"mean": self.words[0], "sd": self.words[1]},
            "alt_text_words": {"mean": self.alt_text_words[0], "sd": self.alt_text_words[1]},
            "num_cut": self.num_cut,
            "finish_reasons": dict(self.finish_reasons),
            "prompts": dict(self.prompts),
            "cost": self.cost.to_json(),
        }

    def lines(self) -> list[str]:
        """The summary for the terminal."""
        dropped = ", ".join(f"{n:,} {reason}" for reason, n in self.dropped.items()) or "none"
        return [
            f"{self.num_out:,} captions of {self.num_in:,} samples in {self.out} "
            f"({self.num_shards_done} of {self.num_shards} shards); dropped: {dropped}",
            f"{self.words[0]:.1f} +- {self.words[1]:.1f} words (alt-text {self.alt_text_words[0]:.1f}), "
            f"{self.num_cut:,} cut back to a full sentence",
            self.cost.line(),
        ]


def recaption(
    recipe: Recipe,
    *,
    shards: Sequence[str],
    model: str | Path,
    out: str | Path,
    round: int,
    worker: Worker | None = None,
    base: str | None = None,
) -> RecaptionSummary:
    """Caption the worker's part of `shards` into the layer folder `out`, going on where it stopped.

    One prompt of the recipe is drawn per image, the same for every worker split. Raises
    RecipeError when `out` was begun with other settings, ModelError, DataError, Interrupted after a
    signal, and RejectBudgetError once everything is written when too much of it was unusable.
    """
    out_dir, worker = Path(out), worker or Worker()
    source = open_source(shards, base=base)
    model_sha256 = weights_sha256(resolve_model(model))
    manifest = claim(out_dir, decisive_inputs(recipe, source, model_sha256, round), recipe)
    with lock(out_dir, worker), interruptible() as stop:
        layer = open_layer(out_dir, layer=LAYER, source=source, manifest={"digest": manifest.digest})
        todo = [shard for shard in select(source.shards, worker) if shard.name not in layer.done()]
        if todo:
            _caption(Captioner(recipe, str(model), model_sha256, round), layer, todo, stop)
        layer.finish()
        summary = summarise(out_dir, recipe, source, str(model), model_sha256, round)
        write_json(out_dir / "summary.json", summary.to_json())
    check_budget(summary, recipe.recaption.max_reject_rate)
    return summary


def decisive_inputs(recipe: Recipe, source: Source, model_sha256: str, round: int) -> dict[str, Any]:
    """Everything that decides the captions; the engine is noted in each of them, but may change on resuming."""
    settings = recipe.recaption
    return {
        "stage": LAYER,
        "round": round,
        "seed": recipe.seed,
        "model_sha256": model_sha256,
        "dtype": recipe.base.dtype,
        "settings": settings.deciding(),
        "prompts": {prompt_id: prompt_sha256(prompt_id) for prompt_id in settings.prompts},
        "base": source.digest(),
    }


class Captioner:
    """Turns samples into requests and results into captions, by the recipe alone."""

    def __init__(self, recipe: Recipe, model: str, model_sha256: str, round: int) -> None:
        self.recipe = recipe
        self.settings = recipe.recaption
        self.model, self.model_sha256, self.round = model, model_sha256, round
        self.engine_name = ""
        self._max_pixels = self.settings.max_pixels or DEFAULT_MAX_PIXELS

    def prompt_id(self, sample: Sample) -> str:
        """The prompt drawn for a sample; another one in the next round."""
        return draw_prompt(self.settings.prompts, f"{self.round}/{sample.key}", self.recipe.seed)

    def seed(self, sample: Sample) -> int:
        return stable_hash(LAYER, self.recipe.seed, self.round, self.prompt_id(sample), sample.key)

    def is_selected(self, sample: Sample) -> bool:
        """Whether a sample is in the recaptioned share, the same images in every round."""
        return stable_hash("share", self.recipe.seed, sample.key) < self.settings.share * 2**63

    def ask(self, out: ShardWriter, sample: Sample) -> Request | None:
        """The request for a sample; None when it is not selected or its image cannot be used."""
        if not self.is_selected(sample):
            out.skip(sample, NOT_SELECTED)
            return None
        if len(sample.images) != 1:
            reason = "several-images" if sample.images else "no-image"
            out.reject(
                Reject(out.name, sample.key, reason, f"the sample has {len(sample.images)} images, not one")
            )
            return None
        try:
            image = decode_image(sample.images[0].data, max_pixels=self._max_pixels)
        except DataError as error:
            out.reject(Reject(out.name, sample.key, "bad-image", str(error)))
            return None
        return Request(
            id=sample.key,
            messages=(Turn("user", prompt_text(self.prompt_id(sample))),),
            images=(image,),
            max_new_tokens=self.settings.max_new_tokens,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            seed=self.seed(sample),
        )

    def answer(self, out: ShardWriter, sample: Sample, request: Request, result: Result) -> None:
        """Write the caption of a result, or reject the sample when there is none to keep."""
        if result.error is not None:
            out.reject(Reject(out.name, sample.key, "engine-error", result.error))
            return
        out.count(**{f"finish_{result.finish_reason}": 1})
        caption = check_caption(result.text, reached_limit=result.finish_reason == "length")
        if caption.defect is not None:
            out.reject(Reject(out.name, sample.key, caption.defect, f"the model wrote: {caption.text[:500]}"))
            return
        prompt_id, words, alt_words = (
            self.prompt_id(sample),
            num_words(caption.text),
            num_words(sample.text or ""),
        )
        out.annotate(
            sample,
            Annotation(
                layer=LAYER,
                kind="caption",
                text=caption.text,
                round=self.round,
                model=self.model,
                model_sha256=self.model_sha256,
                prompt_id=prompt_id,
                prompt_sha256=prompt_sha256(prompt_id),
                sampling=self._sampling(),
                seed=request.seed,
                num_tokens=result.num_tokens,
                finish_reason=result.finish_reason,
                logprob_mean=result.logprob_mean,
            ),
        )
        out.count(words=words, words_squared=words**2, alt_words=alt_words, alt_words_squared=alt_words**2)
        out.count(**{"cut": int(caption.was_cut), f"prompt_{prompt_id}": 1})

    def _sampling(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "engine": self.engine_name,
            "dtype": self.recipe.base.dtype,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_new_tokens": settings.max_new_tokens,
        }


def _caption(captioner: Captioner, layer: LayerWriter, todo: Sequence[Shard], stop: Stop) -> None:
    recipe = captioner.recipe
    settings = EngineSettings(dtype=recipe.base.dtype, batch_size=recipe.recaption.batch_size, max_images=1)
    engine = open_engine(recipe.recaption.engine, captioner.model, settings)
    captioner.engine_name = engine.name
    total = sum(num_samples(shard) for shard in todo)
    with Progress(LAYER, total, log_path=layer.folder / "log.jsonl") as progress:
        annotator = Annotator(
            engine, layer, ask=captioner.ask, answer=captioner.answer, stop=stop, progress=progress
        )
        annotator.run(todo)


def summarise(
    out_dir: Path, recipe: Recipe, source: Source, model: str, model_sha256: str, round: int
) -> RecaptionSummary:
    """Sum the stats files of a caption layer."""
    names = [shard.name for shard in source.shards if (out_dir / f"{shard.name}.stats.json").is_file()]
    total: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for name in names:
        stats = json.loads((out_dir / f"{name}.stats.json").read_bytes())
        dropped.update(stats["dropped"])
        total.update({key: value for key, value in stats.items() if isinstance(value, int | float)})
    seconds = total["seconds"]
    return RecaptionSummary(
        out=str(out_dir),
        round=round,
        model=model,
        model_sha256=model_sha256,
        num_shards=len(source.shards),
        num_shards_done=len(names),
        num_in=total["in"],
        num_out=total["out"],
        dropped=dict(sorted(dropped.items())),
        num_rejected=total["rejected"],
        num_tokens=total["tokens"],
        words=_mean_sd(total["out"], total["words"], total["words_squared"]),
        alt_text_words=_mean_sd(total["out"], total["alt_words"], total["alt_words_squared"]),
        num_cut=total["cut"],
        finish_reasons=_with_prefix(total, "finish_"),
        prompts=_with_prefix(total, "prompt_"),
        cost=Cost(
            num_images=total["answered"],
            num_tokens=total["tokens"],
            seconds=seconds,
            num_devices=max(1, math.ceil(total["device_seconds"] / seconds - 0.5)) if seconds else 1,
            device=recipe.cost.device,
            dollars_per_hour=recipe.cost.dollars_per_hour,
        ),
    )


def _mean_sd(count: int, total: float, squares: float) -> tuple[float, float]:
    if not count:
        return 0.0, 0.0
    mean = total / count
    return mean, math.sqrt(max(0.0, squares / count - mean**2))


def _with_prefix(figures: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {key.removeprefix(prefix): value for key, value in sorted(figures.items()) if key.startswith(prefix)}


def check_budget(summary: RecaptionSummary, max_reject_rate: float) -> None:
    """Raise RejectBudgetError when the rejected share is above the recipe's limit."""
    if summary.reject_rate <= max_reject_rate:
        return
    reasons = ", ".join(f"{n} {reason}" for reason, n in summary.dropped.items() if reason != NOT_SELECTED)
    raise RejectBudgetError(
        f"{summary.num_rejected} of {summary.num_selected} images ({summary.reject_rate:.1%}) got no caption, "
        f"above max_reject_rate {max_reject_rate:.1%}: {reasons}; see {summary.out}/rejects.jsonl"
    )
