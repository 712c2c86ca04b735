"""Merging alt-text and recaption with a language model, guarded against invention (POINTS section 3.1)."""

from dataclasses import replace
from functools import partial
from typing import Any

from vila2cli.ask.fill import Dialogue
from vila2cli.ask.images import passed_filter
from vila2cli.ask.provenance import Provenance
from vila2cli.captioning.attempts import (
    Attempt,
    attempt,
    attempt_counts,
    caption_counts,
    decision,
    seeded,
    standard_of,
)
from vila2cli.engine import Request, Result
from vila2cli.errors import RecipeError
from vila2cli.image import Decode
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import ShardWriter
from vila2cli.shards.sample import ORIGINAL, Annotation, Sample, Turn, caption_of
from vila2cli.text.caption_checks import CheckedCaption, check_caption, shortest_echo
from vila2cli.text.compose import compose_caption, neutral
from vila2cli.text.invention import inventions
from vila2cli.text.merged import labels_of, merged_part
from vila2cli.text.prompts import fill, prompt_sha256, prompt_text

LAYER = "rewrite"
RECAPTION = "recaption"
NOTHING = "no-caption"
NOT_MERGED = "not-merged"


def check_settings(recipe: Recipe) -> None:
    """Raise RecipeError for a prompt nobody knows or that shows not both captions, and for odd fallbacks."""
    settings = recipe.rewrite
    text = prompt_text(settings.prompt, recipe.prompts)
    if not all(f"{{{name}}}" in text for name in (ORIGINAL, RECAPTION)):
        raise RecipeError(f"rewrite.prompt = {settings.prompt!r} has to hold {{original}} and {{recaption}}")
    if odd := sorted(set(settings.fallback) - {ORIGINAL, RECAPTION}):
        raise RecipeError(f"rewrite.fallback names {odd[0]!r}; it may name original and recaption")


def decisive_settings(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides the merged captions."""
    prompt_id = recipe.rewrite.prompt
    return {
        "settings": recipe.rewrite.deciding(),
        "prompts": {prompt_id: prompt_sha256(prompt_id, recipe.prompts)},
    }


class Rewriter:
    """The task of merging two captions; the model sees no image."""

    def __init__(self, recipe: Recipe, provenance: Provenance) -> None:
        check_settings(recipe)
        self.settings, self.provenance = recipe.rewrite, provenance
        self._seed = recipe.seed
        self._template = prompt_text(self.settings.prompt, recipe.prompts)
        self._prompt_sha256 = prompt_sha256(self.settings.prompt, recipe.prompts)
        self._standard = standard_of(self.settings)
        self._labels = labels_of(self._template, (ORIGINAL, RECAPTION))

    def wants(self, out: ShardWriter, sample: Sample) -> bool:
        """Whether there is anything to write: an alt-text or a recaption of a sample that no filter dropped."""
        if not passed_filter(out, sample):
            return False
        if caption_of(sample, ORIGINAL) or caption_of(sample, RECAPTION):
            return True
        out.skip(sample, NOTHING)
        return False

    def prepare(self, sample: Sample, decode: Decode) -> None:
        """Nothing: the captions are all that is sent."""

    def talk(self, out: ShardWriter, sample: Sample, made: None) -> Dialogue:
        """Ask for the merged caption, again where it fails a check or invents, and write what is kept.

        With one caption, or two that are equal, there is nothing to merge and the model is not asked.
        """
        original, recaption = caption_of(sample, ORIGINAL), caption_of(sample, RECAPTION)
        if original is None or recaption is None or original == recaption:
            name = RECAPTION if original is None else ORIGINAL
            text = recaption if original is None else original
            self._keep(out, sample, text or "", f"only-{name}", "only")
            return
        request = self._request(original, recaption)
        echo = shortest_echo(self._template, request.messages[0].text)
        check = partial(self._check, sources=(original, recaption), echo=echo)
        parts = (LAYER, self._seed, self.provenance.draw, self.settings.prompt, sample.key)
        tries = seeded(request, 1, self.settings.retry_temperatures, parts)
        attempts = yield from attempt(*tries, check)
        out.count(**attempt_counts(attempts, 1))
        best = next((one for one in attempts if one.defect is None), None)
        if best is not None:
            self._keep(out, sample, best.caption.text, "merged", "only", attempts, best)
            out.count(retried=int(best is not attempts[0]))
        else:
            text = compose_caption(sample, self.settings.fallback) or original
            self._keep(out, sample, text, "+".join(self.settings.fallback), "fallback", attempts)
            out.count(fallbacks={str(attempts[-1].defect): 1})

    def _request(self, original: str, recaption: str) -> Request:
        text = fill(self._template, original=neutral(original), recaption=neutral(recaption))
        return Request(
            id="",
            messages=(Turn("user", text),),
            max_new_tokens=self.settings.max_new_tokens,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
        )

    def _check(self, result: Result, sources: tuple[str, str], echo: str) -> tuple[CheckedCaption, str | None]:
        caption = check_caption(
            result.text,
            reached_limit=result.finish_reason == "length",
            standard=self._standard,
            prompt=echo,
            find=partial(merged_part, labels=self._labels),
        )
        if caption.defect == "empty" and result.answer.text.strip():
            return replace(caption, text=result.answer.text.strip()), NOT_MERGED
        invented = inventions(caption.text, sources).kind(self.settings.max_new_words)
        return caption, caption.defect or invented

    def _keep(
        self,
        out: ShardWriter,
        sample: Sample,
        text: str,
        source: str,
        by: str,
        attempts: list[Attempt] | None = None,
        best: Attempt | None = None,
    ) -> None:
        annotation = Annotation(
            layer=LAYER,
            kind="caption",
            text=text,
            decision=decision(source, by, attempts or [], best),
            prompt_id=self.settings.prompt,
            prompt_sha256=self._prompt_sha256,
        )
        asked = (best.request, best.result) if best else ()
        out.annotate(sample, self.provenance.sign(annotation, *asked))
        out.count(**caption_counts(text, sample.text, best), kept={source: 1})
