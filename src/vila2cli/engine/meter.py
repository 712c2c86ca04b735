"""What each shard of a layer costs: time and dollars since the shard before it was written."""

import time

from vila2cli.engine import Engine


class Meter:
    """Reads an engine's costs; shards overlap, so each is charged what came since the last reading."""

    def __init__(self, engine: Engine | None) -> None:
        self._engine = engine
        self._start_s, self._dollars = time.perf_counter(), engine.dollars if engine else 0.0

    def read(self) -> dict[str, float]:
        """Figures for a stats file; beside seconds those of devices, and what a server charged."""
        now_s, start_s = time.perf_counter(), self._start_s
        seconds, self._start_s = now_s - start_s, now_s
        engine = self._engine
        if engine is None:
            return {"seconds": seconds, "device_seconds": seconds}
        figures = {"seconds": seconds, "device_seconds": seconds * engine.num_devices}
        if engine.device_kind != "core":
            figures[f"{engine.device_kind}_seconds"] = figures["device_seconds"]
        if engine.dollars > self._dollars:
            figures["dollars"] = engine.dollars - self._dollars
            self._dollars = engine.dollars
        return figures
