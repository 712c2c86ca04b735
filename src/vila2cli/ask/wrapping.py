"""Engines around an engine: one that loads its model when it is needed, one whose budget may end."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from vila2cli.engine import AnyRequest, DeviceKind, Engine, Result
from vila2cli.errors import BudgetError

_NUM_PEEKED = 64
"""Requests that are looked at for their number of images before a model is loaded."""


class Wrapper:
    """What is true of an engine that hands on what another one says; each has a `generate` of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def model(self) -> str:
        return self._engine.model

    @property
    def model_sha256(self) -> str:
        return self._engine.model_sha256

    @property
    def num_devices(self) -> int:
        return self._engine.num_devices

    @property
    def device_kind(self) -> DeviceKind:
        return self._engine.device_kind

    @property
    def notes(self) -> list[str]:
        return self._engine.notes

    @property
    def dollars(self) -> float:
        return self._engine.dollars


class Unloaded:
    """An engine of which only the name and the model are known; it has nothing to say and costs nothing."""

    num_devices = 1
    device_kind: DeviceKind = "core"
    dollars = 0.0

    def __init__(self, name: str, model: str, model_sha256: str) -> None:
        self.name, self.model, self.model_sha256 = name, model, model_sha256
        self.notes: list[str] = []

    def generate(self, requests: Iterable[AnyRequest]) -> Iterator[Result]:
        raise AssertionError(f"{self.model} was not loaded")


class LazyEngine(Wrapper):
    """An engine that is opened when its first request comes, for as many images as the first requests show."""

    def __init__(self, unloaded: Unloaded, open_for: Callable[[int], Engine]) -> None:
        super().__init__(unloaded)
        self._open_for: Callable[[int], Engine] | None = open_for

    def generate(self, requests: Iterable[AnyRequest]) -> Iterator[Result]:
        """Yield results as the engine does; without a request no model is loaded."""
        stream = iter(requests)
        peeked: list[AnyRequest] = []
        if self._open_for is not None:
            peeked = list(islice(stream, 1 if self.name == "api" else _NUM_PEEKED))
            if not peeked:
                return
            self._engine = self._open_for(max(len(request.images) for request in peeked))
            self._open_for = None
        yield from self._engine.generate(_Led(peeked, stream))


class _Led:
    """A stream led by some requests that were taken from it; it may run dry and go on as the stream does."""

    def __init__(self, first: Iterable[AnyRequest], rest: Iterator[AnyRequest]) -> None:
        self._first, self._rest = iter(first), rest

    def __iter__(self) -> Iterator[AnyRequest]:
        return self

    def __next__(self) -> AnyRequest:
        return next(self._first, None) or next(self._rest)


class LimitedEngine(Wrapper):
    """An engine whose budget may end without ending the work: what is asked from then on fails, and says so."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.spent = ""
        """What was said when the budget ended."""

    def generate(self, requests: Iterable[AnyRequest]) -> Iterator[Result]:
        """Yield results as the engine does, and of what no budget is left for failures of the kind "budget"."""
        asked: dict[str, AnyRequest] = {}

        def note(request: AnyRequest) -> AnyRequest:
            return asked.setdefault(request.id, request)

        stream = map(note, requests)  # which may run dry and go on, as no generator can
        if not self.spent:
            try:
                for result in self._engine.generate(stream):
                    del asked[result.id]
                    yield result
                return
            except BudgetError as error:
                self.spent = str(error)
                self.notes.append(self.spent)
        for request in [*asked.values()]:
            yield self._unasked(request)
        for request in stream:
            yield self._unasked(request)

    def _unasked(self, request: AnyRequest) -> Result:
        return Result(id=request.id, finish_reason="error", error=self.spent, failure="budget")
