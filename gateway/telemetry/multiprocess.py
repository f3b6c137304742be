"""Metrics across the processes of one gateway: counters through prometheus_client's files, gauges through JSON
files.

Both are in the folder `PROMETHEUS_MULTIPROC_DIR` (see `metrics_folder`), which prometheus_client reads at import.
Counters of a process outlive it; its gauges do not.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from gateway.telemetry.gauges import FAMILIES, Reading
from gateway.telemetry.metrics_folder import gauges_file

PUBLISH_EVERY_S: Final = 1.0
STALE_S: Final = 10.0  # a process that has not published for this long hangs or has ended


class MultiprocessMetrics:
    """The other processes of the same gateway."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own = gauges_file(folder, os.getpid())

    def counts(self) -> CollectorRegistry:
        """A registry with the counters of all processes, ended ones included."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self.folder))  # type: ignore[no-untyped-call]
        return registry

    def publish(self, readings: Sequence[Reading]) -> None:
        """Write this process's gauges atomically. On a full disk the other processes see old values."""
        temporary = self._own.with_suffix(".new")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(readings), encoding="utf-8")
            temporary.replace(self._own)

    def read_peers(self) -> Iterator[Reading]:
        """The latest gauges of the other processes."""
        for path in self.folder.glob("states_*.json"):
            if path != self._own:
                with contextlib.suppress(OSError, ValueError, TypeError):
                    if time.time() - path.stat().st_mtime < STALE_S:
                        readings = [
                            Reading(name, tuple(labels), value) for name, labels, value in json.loads(path.read_text())
                        ]
                        yield from (reading for reading in readings if reading.name in FAMILIES)

    def close(self) -> None:
        """Remove this process's gauges."""
        self._own.unlink(missing_ok=True)
