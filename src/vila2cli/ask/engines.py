"""Engines around an engine; this one's budget may end."""

from collections.abc import Iterable, Iterator
from itertools import chain
from operator import attrgetter
from typing import Any

from vila2cli.engine import AnyRequest, DeviceKind, Engine, Preparing, Result
from vila2cli.errors import BudgetError


def _of_the_other(name: str) -> Any:
    return property(attrgetter(f"_engine.{name}"))


class Wrapper:
    """What is true of an engine that hands on what another one says; each has a `generate` of its own."""

    name: str = _of_the_other("name")
    model: str = _of_the_other("model")
    model_sha256: str = _of_the_other("model_sha256")
    num_devices: int = _of_the_other("num_devices")
    device_kind: DeviceKind = _of_the_other("device_kind")
    notes: list[str] = _of_the_other("notes")
    preparing: Preparing = _of_the_other("preparing")
    dollars: float = _of_the_other("dollars")
    num_fewer_tiles: int = _of_the_other("num_fewer_tiles")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine


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
        for request in chain([*asked.values()], stream):
            yield Result(id=request.id, finish_reason="error", error=self.spent, failure="budget")
