"""Engines around an engine; this one's budget may end."""

from collections.abc import Iterable, Iterator

from vila2cli.engine import AnyRequest, DeviceKind, Engine, Preparing, Result
from vila2cli.errors import BudgetError


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
    def preparing(self) -> Preparing:
        return self._engine.preparing

    @property
    def dollars(self) -> float:
        return self._engine.dollars

    @property
    def num_fewer_tiles(self) -> int:
        return int(getattr(self._engine, "num_fewer_tiles", 0))


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
