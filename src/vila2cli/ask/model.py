"""A model that is asked greedily: who it is, what decides its answers, and the engine that asks it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from PIL import Image

from vila2cli.ask.kept_answers import Answers, Kept, server_inputs
from vila2cli.ask.wrapping import LazyEngine, Unloaded
from vila2cli.engine import (
    Engine,
    EngineSettings,
    Request,
    choose_engine,
    context_for,
    dtype_of,
    identify,
    open_engine,
)
from vila2cli.engine.keys import api_key
from vila2cli.run.stopping import Stop
from vila2cli.shards.sample import Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedModel:
    """A model, known as `name` where its answers are filed, and the engine that asks it.

    `dtype` is {} where the number format is not known, and `settings.dtype` "auto" where the weights decide it.
    """

    name: str
    model: str
    model_sha256: str
    engine: str
    dtype: Mapping[str, str]
    max_new_tokens: int
    settings: EngineSettings

    @classmethod
    def of(cls, model: str, engine: str, settings: EngineSettings, *, max_new_tokens: int) -> Self:
        """Settle which engine asks a model; raises ModelError where the model or the engine is not there."""
        kind = choose_engine(engine, model).kind
        name, sha256 = identify(kind, model, settings.api)
        return cls(
            name=name if kind == "api" else model,
            model=model,
            model_sha256=sha256,
            engine=kind,
            dtype=dtype_of(kind, model, settings.dtype),
            max_new_tokens=max_new_tokens,
            settings=replace(settings, api_key=api_key(settings.api)),
        )

    def inputs(self) -> dict[str, Any]:
        """What a manifest says of what decides the answers, the questions apart."""
        return {
            "model_sha256": self.model_sha256,
            "engine": self.engine,
            "max_new_tokens": self.max_new_tokens,
            **({} if self.settings.dtype == "auto" else self.dtype),
        }

    def sampling(self) -> dict[str, Any]:
        """How answers are generated, for an annotation."""
        return {
            "engine": self.engine,
            "temperature": 0.0,
            **self.dtype,
            "max_new_tokens": self.max_new_tokens,
        }

    def request(
        self,
        messages: Sequence[Turn] = (),
        images: Sequence[Image.Image] = (),
        image_sha256s: Sequence[str] = (),
    ) -> Request:
        """A request; its id and group are given to it when it is sent."""
        return Request(
            id="",
            messages=tuple(messages),
            images=tuple(images),
            image_sha256s=tuple(image_sha256s),
            max_new_tokens=self.max_new_tokens,
        )

    def open(self, stop: Stop) -> LazyEngine:
        """Its engine, which loads the model at the first request."""

        def open_for(num_images: int) -> Engine:
            settings = replace(self.settings, max_model_len=context_for(num_images))
            return open_engine(self.engine, self.model, settings, stop)

        return LazyEngine(Unloaded(self.engine, self.name, self.model_sha256), open_for)

    def keeping(self, engine: Engine, answers: Answers, limits: Mapping[str, Any]) -> Kept:
        """The engine around which its answers are kept; `limits` are those under which images were decoded."""
        server = server_inputs(self.settings.api) if self.engine == "api" else {}
        return Kept(engine, answers, {**self.dtype, **server, **limits})
