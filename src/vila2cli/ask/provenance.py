"""Where a caption comes from: model, round, engine and sampling, as every annotation of a layer says it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vila2cli.engine import Request, Result, dtype_of, identify
from vila2cli.files import read_json
from vila2cli.settings import ApiSettings, MachineSettings, WritingSettings
from vila2cli.shards.sample import Annotation


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The model of a stage and its round; `engine` is known once it is loaded.

    `draw` is what prompts and seeds are drawn by besides the sample: the round, where there is one.
    """

    model: str
    model_sha256: str
    round: int | None
    draw: int | str
    dtype: dict[str, Any]  # and what else of the engine decides its text; empty where it is not known
    engine: str = ""
    asked: Mapping[str, Any] = field(default_factory=dict)  # what is set of how it is asked

    @classmethod
    def of(
        cls,
        model: str,
        settings: WritingSettings,
        api: ApiSettings,
        machine: MachineSettings,
        round: int | None,
    ) -> "Provenance":
        """What is known of a model before it is loaded; raises ModelError when it is not there."""
        name, sha256 = identify(settings.engine, model, api)
        return cls(
            model=name,
            model_sha256=sha256,
            round=round,
            draw=_draw(model, settings.engine, sha256) if round is None else round,
            dtype={**dtype_of(settings.engine, model, settings.dtype), **machine.decisive()},
            asked=settings.inputs(),
        )

    def sign(
        self, annotation: Annotation, request: Request | None = None, result: Result | None = None
    ) -> Annotation:
        """The annotation with who was asked; with a result also how it was sampled and what it took.

        A caption that nobody generated (a fallback) has no sampling of its own.
        """
        signed = replace(annotation, round=self.round, model=self.model, model_sha256=self.model_sha256)
        if request is None or result is None:
            return replace(signed, sampling={"engine": self.engine, **self.dtype})
        return replace(
            signed,
            sampling={
                "engine": self.engine,
                **self.dtype,
                "temperature": request.temperature,
                "top_p": request.top_p,
                "max_new_tokens": request.max_new_tokens,
                **self.asked,
            },
            seed=request.seed,
            num_tokens=result.num_tokens,
            finish_reason=result.finish_reason,
            logprob_mean=result.logprob_mean,
        )


def _draw(model: str, engine: str, model_sha256: str) -> int | str:
    """What prompts and seeds are drawn by outside a run: the round after the model's own, else the model.

    So another model draws other prompts, and a model of a run the same as in that run.
    """
    lineage = Path(model) / "vila2.json"
    before = read_json(lineage).get("round") if engine != "api" and lineage.is_file() else None
    return before + 1 if isinstance(before, int) else model_sha256
