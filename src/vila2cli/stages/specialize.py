"""`vila2 specialize`: a specialist fine-tuned from the self-augmented model, and its answers as a layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vila2cli.ask.fill import Dialogue
from vila2cli.ask.images import decode_images, has_one_image, passed_filter
from vila2cli.ask.job import AskedLayer, Job, counts_of, write_layers
from vila2cli.engine import Request, dtype_of, identify
from vila2cli.errors import RecipeError
from vila2cli.model.adapter import base_of, is_adapter, read_adapter
from vila2cli.run.drafting import as_begun, note_of
from vila2cli.run.results import key
from vila2cli.run.workers import Worker
from vila2cli.settings import SpecialistSettings
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import (
    LayerWriter,
    ShardWriter,
    Source,
    open_source,
)
from vila2cli.shards.rejects import are_too_many
from vila2cli.shards.sample import Annotation, Reject, Sample, Turn
from vila2cli.text.answer_rules import answer_defect
from vila2cli.text.caption_checks import check_caption
from vila2cli.text.compose import Composition, conversations, filter_inputs, neutral
from vila2cli.text.prompts import (
    QUESTIONS,
    draw,
    draw_prompt,
    fill,
    prompt_sha256,
    prompt_text,
    slots_of,
    stable_hash,
)

if TYPE_CHECKING:
    from vila2cli.train.job import TrainSummary


def settings_of(recipe: Recipe, name: str) -> SpecialistSettings:
    """The recipe's table of a specialist; raises RecipeError naming those there are."""
    if name not in recipe.specialists:
        known = ", ".join(recipe.specialists) or "none"
        raise RecipeError(f"the recipe has no [specialists.{name}]; it has {known}")
    settings = recipe.specialists[name]
    if settings.questions not in QUESTIONS:
        raise RecipeError(
            f"specialists.{name}.questions = {settings.questions!r} is no question pool; "
            f"known are {', '.join(QUESTIONS)}"
        )
    for prompt_id in settings.prompts:
        slots = slots_of(prompt_text(prompt_id, recipe.prompts))
        if slots.layers or slots.fields:
            raise RecipeError(
                f"prompt {prompt_id} of specialists.{name} takes another caption or metadata, as only prompts "
                "of caption layers do; {alt_text} is what a specialist can be shown"
            )
    return settings


def specialize(recipe: Recipe, *, name: str, model: str, out: Path) -> "TrainSummary":
    """Fine-tune a specialist on its task shards, from the self-augmented model (VILA^2 section 2.2.1)."""
    from vila2cli.model.checkpoint import resolve_model, weights_sha256
    from vila2cli.train.job import DataSource, Phase, load_checkpoint, train_stage

    settings = settings_of(recipe, name)
    source = open_source(settings.data)
    compose = partial(conversations, composition=Composition())
    loaded, processor = load_checkpoint(model)
    return train_stage(
        f"specialize {name}",
        loaded,
        processor,
        [Phase(f"specialize {name}", settings, [DataSource(f"specialist-{name}", source, compose)])],
        recipe=recipe,
        lineage={
            "specialist": name,
            "parent": {"path": str(model), "sha256": weights_sha256(resolve_model(model))},
            "settings": settings.deciding(),
            "dtype": recipe.base.dtype,
            "seed": recipe.seed,
        },
        out=out,
    )


@dataclass(frozen=True, slots=True)
class Answering:
    """A specialist of the recipe, the checkpoint or LoRA adapter that answers, and the layer's folder."""

    name: str
    model: str
    out: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Relabelled(AskedLayer):
    """The counts of a specialist's answers; `kept_share` is that of the images asked about."""

    stage: str
    specialist: str
    model: str
    num_asked: int = key("asked")
    kept_share: float = key("yield")


def relabel(
    recipe: Recipe,
    answering: Sequence[Answering],
    *,
    shards: Sequence[str],
    worker: Worker | None = None,
    base: str | None = None,
    limit: int | None = None,
) -> list[Relabelled]:
    """Let specialists answer their generation prompts for every image; write question-answer turns as layers.

    The question filed with an answer is drawn from the specialist's pool, apart from the prompt that
    produced it (VILA^2 section 2.2.1; released loader `coyo_qa.py`). Those who are adapters over the same
    checkpoint answer together, in one engine and one pass over the shards, and write what each would write
    alone. One who fails does not keep the others from answering. The engine is that of [recaption]. With a
    `limit` the first so many samples are all there are. Returns the summaries; raises as `recaption` does, of
    several errors the first.
    """
    source = open_source(shards, base=base, limit=limit)
    recipe = as_begun(recipe, [one.out for one in answering])
    return write_layers([(_relabelling(recipe, one, source), one.out) for one in answering], worker)


def _relabelling(recipe: Recipe, answering: Answering, source: Source) -> Job[Relabelled]:
    name, model, settings = answering.name, answering.model, recipe.recaption
    adapter = model if settings.engine != "api" and is_adapter(model) else ""

    def problem(summary: Relabelled) -> str | None:
        if not are_too_many(summary.reject_rate, summary.num_rejected, settings.max_reject_rate):
            return None
        return (
            f"specialist {name}: {summary.reject_rate:.1%} of the images got no answer, above "
            f"recaption.max_reject_rate {settings.max_reject_rate:.1%}; see {answering.out}/rejects.jsonl"
        )

    return Job(
        layer=name,
        stage="relabel",
        recipe=recipe,
        source=source,
        inputs=relabel_inputs(recipe, name=name, model=model, source=source),
        model=base_of(model) if adapter else model,
        adapter=adapter,
        settings=settings,
        asked=settings_of(recipe, name).asked(),
        make_task=partial(Relabeller, recipe, name, model),
        summarise=partial(_summarise, recipe, answering),
        problem=problem,
        max_reject_rate=settings.max_reject_rate,
        table="recaption",
        title=f"relabel {name}",
        note=note_of(recipe, settings.engine),
    )


def _summarise(recipe: Recipe, answering: Answering, layer: LayerWriter) -> Relabelled:
    counts = counts_of(layer.folder, [shard.name for shard in layer.source.shards], recipe.cost)
    num_asked = counts["num_in"] - counts["dropped"].get("not-selected", 0)
    return Relabelled(
        stage="relabel",
        specialist=answering.name,
        model=answering.model,
        num_asked=num_asked,
        kept_share=counts["num_out"] / num_asked if num_asked else 0.0,
        **counts,
    )


def relabel_inputs(recipe: Recipe, *, name: str, model: str, source: Source) -> dict[str, Any]:
    """What decides a specialist's answers, as the layer's manifest holds it."""
    settings, kind = settings_of(recipe, name), recipe.recaption.engine
    asked = settings.inputs()
    _, model_sha256 = identify(kind, model, recipe.api)
    return {
        "stage": "relabel",
        "specialist": name,
        "seed": recipe.seed,
        "model_sha256": model_sha256,
        **_below(kind, model),
        **dtype_of(kind, model, recipe.recaption.dtype),
        **recipe.engine_of("relabel").decisive(),
        **({"api": recipe.api.deciding()} if kind == "api" else {}),
        "max_new_tokens": settings.max_new_tokens,
        **({"asked": asked} if asked else {}),
        "relabel_share": settings.relabel_share,
        "prompts": {prompt: prompt_sha256(prompt, recipe.prompts) for prompt in settings.prompts},
        "questions": list(QUESTIONS[settings.questions]),
        "checks": list(settings.checks),
        **recipe.data.limits(),
        "base": source.outline(),
        **filter_inputs(source.layers),
    }


def _below(kind: str, model: str) -> dict[str, str]:
    """What a manifest says of the checkpoint under an adapter, nothing of other models."""
    if kind == "api" or not is_adapter(model):
        return {}
    return {"adapter_base_sha256": read_adapter(model).base_sha256}


class Relabeller:
    """Turns samples into a specialist's requests and its answers into question-answer turns."""

    def __init__(self, recipe: Recipe, name: str, model: str, engine: str) -> None:
        self.recipe, self.name, self.engine_name = recipe, name, engine
        self.prepare = partial(decode_images, max_pixels=recipe.data.max_pixels, draft=recipe.data.draft)
        self.settings, kind = settings_of(recipe, name), recipe.recaption.engine
        self.adapter = model if kind != "api" and is_adapter(model) else ""
        self.model, self.model_sha256 = identify(kind, model, recipe.api)
        self.dtype = {
            **dtype_of(kind, model, recipe.recaption.dtype),
            **recipe.engine_of("relabel").decisive(),
        }

    def prompt_id(self, sample: Sample) -> str:
        return draw_prompt(self.settings.prompts, f"{self.name}/{sample.key}", self.recipe.seed)

    def wants(self, out: ShardWriter, sample: Sample) -> bool:
        """Whether to ask about a sample: no filter dropped it, it is in the share and has one image."""
        if not passed_filter(out, sample):
            return False
        if stable_hash("share", self.name, self.recipe.seed, sample.key) >= self.settings.relabel_share * 2**63:
            out.skip(sample, "not-selected")
            return False
        return has_one_image(out, sample)

    def talk(self, out: ShardWriter, sample: Sample, images: tuple[Image.Image, ...]) -> Dialogue:
        """Write the question and the specialist's answer, or reject the sample when there is none to keep."""
        prompt_id = self.prompt_id(sample)
        template = prompt_text(prompt_id, self.recipe.prompts)
        text = fill(template, alt_text=neutral((sample.text or "").strip()))
        request = Request(
            id=sample.key,
            messages=(Turn("user", text),),
            images=images,
            image_sha256s=(sample.image_sha256,),
            max_new_tokens=self.settings.max_new_tokens,
            adapter=self.adapter,
        )
        (result,) = yield [request]
        if result.error is not None:
            out.reject(Reject(out.name, sample.key, "engine-error", result.error))
            return
        checked = check_caption(result.text, reached_limit=result.finish_reason == "length")
        if checked.defect is not None:
            out.reject(Reject(out.name, sample.key, checked.defect, f"the model wrote: {checked.text[:500]}"))
            return
        if (broken := answer_defect(checked.text, self.settings.checks)) is not None:
            out.skip(sample, broken)
            return
        question = draw(QUESTIONS[self.settings.questions], "question", self.name, self.recipe.seed, sample.key)
        out.annotate(
            sample,
            Annotation(
                layer=self.name,
                kind="turns",
                turns=(Turn("user", question), Turn("assistant", checked.text)),
                model=self.model,
                model_sha256=self.model_sha256,
                prompt_id=prompt_id,
                prompt_sha256=prompt_sha256(prompt_id, self.recipe.prompts),
                sampling={
                    "engine": self.engine_name,
                    "temperature": 0.0,
                    **self.dtype,
                    **self.settings.inputs(),
                },
                num_tokens=result.num_tokens,
                finish_reason=result.finish_reason,
                logprob_mean=result.logprob_mean,
            ),
        )
