"""Describing images: which prompt, how many captions, which one is kept (VILA^2 section 2.1)."""

import json
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

from PIL import Image

from vila2cli.ask.fill import Dialogue
from vila2cli.ask.images import decode_images, has_one_image, passed_filter
from vila2cli.ask.provenance import Provenance
from vila2cli.captioning.attempts import (
    JUDGE_PROMPT,
    Attempt,
    attempt,
    attempt_counts,
    best_by_judge,
    best_by_logprob,
    caption_counts,
    decision,
    seeded,
    standard_of,
)
from vila2cli.engine import Request, Result
from vila2cli.errors import RecipeError
from vila2cli.settings.layers import RECAPTION, LayerSettings
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import ShardWriter
from vila2cli.shards.sample import ORIGINAL, Annotation, Reject, Sample, Turn, caption_of, field_text
from vila2cli.text.caption_checks import CheckedCaption, check_caption, shortest_echo
from vila2cli.text.compose import neutral
from vila2cli.text.json_caption import check_json
from vila2cli.text.prompts import (
    draw_prompt,
    fill,
    prompt_sha256,
    prompt_text,
    slot_values,
    slots_of,
    stable_hash,
)

LAYER = RECAPTION
NOT_SELECTED = "not-selected"
NO_LAYER, NO_FIELD = "missing-layer", "missing-meta"

Choice = tuple[Attempt, str, list[str]]
"""The attempt kept, what chose it, and the judge's outcomes."""


def check_settings(recipe: Recipe, layer: str = LAYER) -> None:
    """Raise RecipeError for a prompt nobody knows, and for n captions that could not differ or be compared."""
    settings, table = recipe.captions_of(layer), table_of(recipe, layer)
    for prompt_id in settings.prompts:
        prompt_text(prompt_id, recipe.prompts)
    if settings.n > 1 and settings.temperature == 0:
        raise RecipeError(
            f"{table}.n = {settings.n} captions per image are all the same at temperature 0; "
            f"set {table}.temperature, for example to 0.7"
        )
    if settings.n > 1 and settings.choose == "logprob" and settings.engine == "api" and not recipe.api.logprobs:
        raise RecipeError(
            f'{table}.choose = "logprob" needs log-probabilities, and api.logprobs = false asks for none; '
            f'set {table}.choose to "judge" or {table}.n to 1'
        )


def table_of(recipe: Recipe, layer: str) -> str:
    """The table of the recipe that says how a caption layer is written."""
    return f"captions.{layer}" if layer in recipe.captions else "recaption"


def decisive_settings(recipe: Recipe, layer: str = LAYER) -> dict[str, Any]:
    """What of a recipe decides the captions."""
    settings = recipe.captions_of(layer)
    inputs: dict[str, Any] = {
        **({} if layer == LAYER else {"layer": layer}),
        "settings": settings.deciding(),
        "prompts": {prompt_id: prompt_sha256(prompt_id, recipe.prompts) for prompt_id in settings.prompts},
        **recipe.data.limits(),
    }
    if settings.choose == "judge":
        inputs["judge"] = {
            "prompt_sha256": prompt_sha256(JUDGE_PROMPT),
            "max_new_tokens": recipe.judge.max_new_tokens,
        }
    return inputs


class Captioner:
    """The task of captioning images for one layer, by the recipe alone."""

    def __init__(self, recipe: Recipe, provenance: Provenance, layer: str = LAYER) -> None:
        check_settings(recipe, layer)
        self.layer, self.provenance = layer, provenance
        self.settings = settings = recipe.captions_of(layer)
        self._schema = settings.schema if isinstance(settings, LayerSettings) and settings.schema else None
        self.prepare = partial(decode_images, max_pixels=recipe.data.max_pixels, draft=recipe.data.draft)
        self._seed, self._own_prompts = recipe.seed, recipe.prompts
        self._max_judge_tokens = recipe.judge.max_new_tokens
        self._standard = standard_of(self.settings)

    def prompt_id(self, sample: Sample) -> str:
        """The prompt drawn for a sample; another one in the next round."""
        draw = f"{self.provenance.draw}/{sample.key}"
        return draw_prompt(
            self.settings.prompts, draw if self.layer == LAYER else f"{self.layer}/{draw}", self._seed
        )

    def wants(self, out: ShardWriter, sample: Sample) -> bool:
        """Whether to caption a sample: no filter dropped it, it is in the share and has one image.

        The share is of the same images in every round.
        """
        if not passed_filter(out, sample):
            return False
        if stable_hash("share", self._seed, sample.key) >= self.settings.share * 2**63:
            out.skip(sample, NOT_SELECTED)
            return False
        return has_one_image(out, sample)

    def talk(self, out: ShardWriter, sample: Sample, images: tuple[Image.Image, ...]) -> Dialogue:
        """Ask for n captions, try again where none is good, choose, and write the caption or a reject.

        A sample that lacks what its prompt takes from it is a reject, and nothing is asked.
        """
        if (lacking := self._lacking(sample)) is not None:
            out.reject(Reject(out.name, sample.key, *lacking))
            return
        request = self._request(sample, images)
        echo = shortest_echo(self._template(sample), request.messages[0].text)
        check = partial(self._check, echo=echo)
        parts = (self.layer, self._seed, self.provenance.draw, self.prompt_id(sample), sample.key)
        tries = seeded(request, self.settings.n, self.settings.retry_temperatures, parts)
        attempts = yield from attempt(*tries, check)
        out.count(**attempt_counts(attempts, self.settings.n))
        good = [one for one in attempts if one.defect is None]
        if not good:
            self._fall_back(out, sample, attempts)
            return
        best, by, outcomes = yield from self._choose(good)
        more = {"judge": outcomes} if outcomes else {}
        self._write(out, sample, best, decision("model", by, attempts, best, **more))
        out.count(kept={"model": 1}, retried=int(attempts.index(best) >= self.settings.n), chosen_by={by: 1})

    def _template(self, sample: Sample) -> str:
        return prompt_text(self.prompt_id(sample), self._own_prompts)

    def _lacking(self, sample: Sample) -> tuple[str, str] | None:
        """In one word and in full what the sample's prompt takes from it and it does not have."""
        slots, prompt_id = slots_of(self._template(sample)), self.prompt_id(sample)
        for name in slots.layers:
            if caption_of(sample, name) is None:
                return NO_LAYER, f"prompt {prompt_id} takes the caption of {name!r}, and the sample has none"
        for name in slots.fields:
            if field_text(sample.meta, name) is None:
                return NO_FIELD, f"prompt {prompt_id} takes {name!r} of the metadata, and the sample has none"
        return None

    def _request(self, sample: Sample, images: tuple[Image.Image, ...]) -> Request:
        template = self._template(sample)
        slots = slots_of(template)
        layers = {name: neutral(caption_of(sample, name) or "") for name in slots.layers}
        fields = {name: neutral(field_text(sample.meta, name) or "") for name in slots.fields}
        text = fill(template, alt_text=neutral((sample.text or "").strip()), **slot_values(layers, fields))
        return Request(
            id=sample.key,
            messages=(Turn("user", text),),
            images=images,
            image_sha256s=(sample.image_sha256,),
            max_new_tokens=self.settings.max_new_tokens,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            schema=self._schema,
        )

    def _check(self, result: Result, echo: str) -> tuple[CheckedCaption, str | None]:
        reached_limit = result.finish_reason == "length"
        if self._schema is not None:
            return check_json(result.text, self._schema, reached_limit=reached_limit)
        caption = check_caption(result.text, reached_limit=reached_limit, standard=self._standard, prompt=echo)
        return caption, caption.defect

    def _choose(self, good: list[Attempt]) -> Generator[Sequence[Request], Sequence[Result], Choice]:
        if len(good) == 1:
            return good[0], "only", []
        if self.settings.choose == "logprob":
            by = "first" if all(one.result.logprob_mean is None for one in good) else "logprob"
            return best_by_logprob(good), by, []
        best, outcomes = yield from best_by_judge(good, max_new_tokens=self._max_judge_tokens)
        return best, "judge", outcomes

    def _write(self, out: ShardWriter, sample: Sample, best: Attempt, how: dict[str, Any]) -> None:
        text = best.caption.text
        out.annotate(sample, self.provenance.sign(self._blank(sample, text, how), best.request, best.result))
        out.count(**caption_counts(text, sample.text, best), prompts={self.prompt_id(sample): 1})

    def _fall_back(self, out: ShardWriter, sample: Sample, attempts: list[Attempt]) -> None:
        """Keep the alt-text where the recipe says so and there is one; else reject the sample."""
        last = attempts[-1]
        original = caption_of(sample, ORIGINAL)
        if original is None or self.settings.fallback == "none":
            error = last.result.error or f"the model wrote: {last.caption.text[:500]}"
            out.reject(Reject(out.name, sample.key, str(last.defect), error))
            return
        how = decision(ORIGINAL, "fallback", attempts)
        out.annotate(sample, self.provenance.sign(self._blank(sample, original, how)))
        out.count(kept={ORIGINAL: 1}, fallbacks={str(last.defect): 1})

    def _blank(self, sample: Sample, text: str, how: dict[str, Any]) -> Annotation:
        prompt_id = self.prompt_id(sample)
        return Annotation(
            layer=self.layer,
            kind="caption",
            text=text,
            fields=json.loads(text) if self._schema is not None else {},
            decision=how,
            prompt_id=prompt_id,
            prompt_sha256=prompt_sha256(prompt_id, self._own_prompts),
        )
