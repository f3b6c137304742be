"""What the processes of one gateway tell each other: counts through prometheus_client's files, states through ours.

Both are in one folder, `PROMETHEUS_MULTIPROC_DIR`, which prometheus_client reads when it is imported. Counts of a
process outlive it; its states do not. Knows neither who starts processes nor what a state means.
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

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
TELL_EVERY_S: Final = 1.0
STALE_S: Final = 10.0  # whoever has not told anything for so long stands still, or is gone


class MultiprocessMetrics:
    """The other processes of the same gateway."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own = _file(folder, os.getpid())

    def counts(self) -> CollectorRegistry:
        """A registry that shows what all have counted, the dead included."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self.folder))  # type: ignore[no-untyped-call]
        return registry

    def tell(self, readings: Sequence[Reading]) -> None:
        """Whole or not at all: the others never read half a file. A full disk costs what they know of us."""
        draft = self._own.with_suffix(".new")
        with contextlib.suppress(OSError):
            draft.write_text(json.dumps(readings), encoding="utf-8")
            draft.replace(self._own)

    def heard(self) -> Iterator[Reading]:
        """What the others told last."""
        for path in self.folder.glob("states_*.json"):
            if path != self._own:
                with contextlib.suppress(OSError, ValueError, TypeError):
                    if time.time() - path.stat().st_mtime < STALE_S:
                        told = [
                            Reading(name, tuple(labels), value) for name, labels, value in json.loads(path.read_text())
                        ]
                        yield from (reading for reading in told if reading.name in FAMILIES)

    def leave(self) -> None:
        """We see nothing any more."""
        self._own.unlink(missing_ok=True)


def forget(folder: Path, pid: int) -> None:
    """That process has died."""
    _file(folder, pid).unlink(missing_ok=True)


def forget_all(folder: Path) -> None:
    """Nobody has counted anything yet. Raises OSError."""
    for pattern in ("*.db", "states_*"):
        for path in folder.glob(pattern):
            path.unlink()


def _file(folder: Path, pid: int) -> Path:
    return folder / f"states_{pid}.json"
