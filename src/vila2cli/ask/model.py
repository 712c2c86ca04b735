"""A model that is asked greedily: who it is, what decides its answers, and the engine that asks it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any, Self

from PIL import Image

from vila2cli.ask.kept_answers import Answers, Kept, server_inputs
from vila2cli.engine import (
    AnyRequest,
    DeviceKind,
    Engine,
    EngineSettings,
    Preparing,
    Request,
    Result,
    choose_engine,
    context_for,
    dtype_of,
    identify,
    open_engine,
)
from vila2cli.engine.keys import api_key
from vila2cli.image import Decode, decode_image
from vila2cli.model.checkpoint import resolve_model
from vila2cli.run.stopping import Stop
from vila2cli.shards.sample import Turn

_NUM_PEEKED = 64
"""Requests that are looked at for their number of images before a model is loaded."""


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
            **self.settings.machine.decisive(),
            **self._asked(),
        }

    def sampling(self) -> dict[str, Any]:
        """How answers are generated, for an annotation."""
        return {
            "engine": self.engine,
            "temperature": 0.0,
            **self.dtype,
            **self.settings.machine.decisive(),
            "max_new_tokens": self.max_new_tokens,
            **self.settings.asked.inputs(),
        }

    def _asked(self) -> dict[str, Any]:
        """What is set of how it is asked, for what is compared; nothing where nothing is."""
        asked = self.settings.asked.inputs()
        return {"asked": asked} if asked else {}

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

    def look(self, stop: Stop) -> None:
        """Raise ModelError for a checkpoint that cannot be asked, as far as that shows before it is loaded."""
        if self.engine == "api":
            return
        from vila2cli.engine.fitting import fitting  # brings transformers, which takes seconds

        with stop.at_once():
            fitting(resolve_model(self.model), self.settings.asked)

    def open(self, stop: Stop) -> "LazyEngine":
        """Its engine, which loads the model at the first request."""
        return LazyEngine(self, stop)

    def keeping(self, engine: Engine, answers: Answers, limits: Mapping[str, Any]) -> Kept:
        """The engine around which its answers are kept; `limits` are those under which images were decoded."""
        server = server_inputs(self.settings.api) if self.engine == "api" else {}
        return Kept(engine, answers, {**self.dtype, **server, **limits, **self._asked()})


class LazyEngine:
    """An engine that loads its model at its first request, for as many images as the first requests show."""

    num_devices = 1
    device_kind: DeviceKind = "core"
    _engine: Engine | None = None

    def __init__(self, asked: AskedModel, stop: Stop) -> None:
        self.name, self.model, self.model_sha256 = asked.engine, asked.name, asked.model_sha256
        self.notes: list[str] = []
        self._asked, self._stop = asked, stop

    @property
    def preparing(self) -> Preparing:
        return Preparing(self._decode, self._asked.settings.machine.workers)

    def _decode(self, data: bytes, *, max_pixels: int, draft: float) -> Image.Image:
        """As the engine has it; before the model is loaded by its processor alone."""
        decode = self._unloaded if self._engine is None else self._engine.preparing.decode
        return decode(data, max_pixels=max_pixels, draft=draft)

    @cached_property
    def _unloaded(self) -> Decode:
        if self.name == "api":
            return decode_image
        from vila2cli.engine.asking import chat_for
        from vila2cli.model.loading import load_processor

        chat = chat_for(load_processor(resolve_model(self._asked.model)), self._asked.settings.asked)
        return partial(decode_image, made=chat.made)

    @property
    def dollars(self) -> float:
        return self._engine.dollars if self._engine else 0.0

    @property
    def num_fewer_tiles(self) -> int:
        return self._engine.num_fewer_tiles if self._engine else 0

    def generate(self, requests: Iterable[AnyRequest]) -> Iterator[Result]:
        """Yield results as the engine does; without a request no model is loaded."""
        stream, peeked = iter(requests), list[AnyRequest]()
        if self._engine is None:
            peeked = list(islice(stream, 1 if self.name == "api" else _NUM_PEEKED))
            if not peeked:
                return
            self._engine = self._open(max(len(request.images) for request in peeked))
        yield from self._engine.generate(_Led(peeked, stream))

    def _open(self, num_images: int) -> Engine:
        settings = replace(self._asked.settings, planned_context=context_for(num_images))
        engine = open_engine(self.name, self._asked.model, settings, self._stop)
        self.num_devices, self.device_kind, self.notes = engine.num_devices, engine.device_kind, engine.notes
        return engine


class _Led:
    """A stream led by some requests that were taken from it; it may run dry and go on as the stream does."""

    def __init__(self, first: Iterable[AnyRequest], rest: Iterator[AnyRequest]) -> None:
        self._first, self._rest = iter(first), rest

    def __iter__(self) -> Iterator[AnyRequest]:
        return self

    def __next__(self) -> AnyRequest:
        return next(self._first, None) or next(self._rest)
