"""Where a caption comes from: model, round, engine and sampling, as every annotation of a layer says it."""

from dataclasses import dataclass, replace

from vila2cli.captioning.attempts import Attempt
from vila2cli.engine import Request
from vila2cli.settings import WritingSettings
from vila2cli.shards.sample import Annotation
from vila2cli.text.prompts import stable_hash
from vila2cli.text.quality import Standard


def standard_of(settings: WritingSettings) -> Standard:
    """What the recipe expects of a caption."""
    return Standard(language=settings.language, min_words=settings.min_words, max_words=settings.max_words)


@dataclass(slots=True, kw_only=True)
class Provenance:
    """The model of a stage and its round; `engine` is known once it is loaded.

    `draw` is what prompts and seeds are drawn by besides the sample: the round, where there is one.
    """

    model: str
    model_sha256: str
    round: int | None
    draw: int | str
    dtype: dict[str, str]  # empty where it is not known
    engine: str = ""

    def vary(
        self, request: Request, *parts: object, index: int = 0, temperature: float | None = None
    ) -> Request:
        """The `index`-th try of a request: its own seed from `parts`, and its own temperature where given."""
        seed = stable_hash(*parts, *([index] if index else []))
        return replace(
            request, seed=seed, temperature=request.temperature if temperature is None else temperature
        )

    def sign(self, annotation: Annotation, attempt: Attempt | None = None) -> Annotation:
        """The annotation with who was asked; with an attempt also how it was sampled and what it took.

        A caption that nobody generated (a fallback) has no sampling of its own.
        """
        signed = replace(annotation, round=self.round, model=self.model, model_sha256=self.model_sha256)
        if attempt is None:
            return replace(signed, sampling={"engine": self.engine, **self.dtype})
        request, result = attempt.request, attempt.result
        return replace(
            signed,
            sampling={
                "engine": self.engine,
                **self.dtype,
                "temperature": request.temperature,
                "top_p": request.top_p,
                "max_new_tokens": request.max_new_tokens,
            },
            seed=request.seed,
            num_tokens=result.num_tokens,
            finish_reason=result.finish_reason,
            logprob_mean=result.logprob_mean,
        )
