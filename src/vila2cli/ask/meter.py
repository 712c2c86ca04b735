"""What each shard of a layer costs: time and dollars since the shard before it was written."""

import time
from collections import Counter
from dataclasses import replace

from vila2cli.engine import Engine
from vila2cli.run.feed import Waits


class Meter:
    """Reads an engine's costs; shards overlap, so each is charged what came since the last reading.

    Of replicas that work side by side each counts its part of the seconds, which together are those that pass.
    """

    def __init__(self, engine: Engine | None, num_side_by_side: int = 1, waits: Waits | None = None) -> None:
        self._engine, self._num_side_by_side = engine, num_side_by_side
        self.waits = waits or Waits()
        self._waited = replace(self.waits)
        self._start_s, self._dollars = time.perf_counter(), engine.dollars if engine else 0.0
        self._num_fewer_tiles = engine.num_fewer_tiles if engine else 0

    def read(self) -> dict[str, float]:
        """Figures for a stats file; beside seconds those of devices, and what a server charged."""
        now_s, start_s = time.perf_counter(), self._start_s
        seconds, self._start_s = now_s - start_s, now_s
        self.waits.settle()
        before, self._waited = self._waited, replace(self.waits)
        waited = {  # since the last reading, shared as the seconds are
            "waited_for_pictures": (self._waited.for_pictures - before.for_pictures) / self._num_side_by_side,
            "pictures_waited": (self._waited.for_engine - before.for_engine) / self._num_side_by_side,
        }
        engine = self._engine
        if engine is None:
            return {"seconds": seconds, "device_seconds": seconds, **waited}
        figures = {
            "seconds": seconds / self._num_side_by_side,
            "device_seconds": seconds * engine.num_devices,
            **waited,
        }
        if engine.device_kind != "core":
            figures[f"{engine.device_kind}_seconds"] = figures["device_seconds"]
        if engine.dollars > self._dollars:
            figures["dollars"] = engine.dollars - self._dollars
            self._dollars = engine.dollars
        if engine.num_fewer_tiles > self._num_fewer_tiles:
            figures["fewer_tiles"] = engine.num_fewer_tiles - self._num_fewer_tiles
            self._num_fewer_tiles = engine.num_fewer_tiles
        return figures


class Bill:
    """Splits what an engine costs between layers that it writes in one pass, by the tokens generated for each.

    Their sum is what the engine costs; a layer by itself is charged all of it.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._work: Counter[str] = Counter()
        self._owed: dict[str, dict[str, float]] = {}

    @property
    def waits(self) -> Waits:
        """Where those who wait count for how long."""
        return self._meter.waits

    def work(self, layer: str, num_tokens: int) -> None:
        """Note an answer; the request itself counts as a token."""
        self._work[layer] += 1 + num_tokens

    def charge(self, layer: str) -> dict[str, float]:
        """What a layer's shard costs: the layer's part of everything since it was charged last."""
        costs, total = self._meter.read(), self._work.total()
        shares = {name: work / total for name, work in self._work.items()} if total else {layer: 1.0}
        self._work.clear()
        for name, share in shares.items():
            owed = self._owed.setdefault(name, {})
            owed.update({figure: owed.get(figure, 0.0) + share * cost for figure, cost in costs.items()})
        return self._owed.pop(layer, dict.fromkeys(costs, 0.0))
