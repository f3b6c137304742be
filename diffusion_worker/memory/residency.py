"""Where the weights are, as a table of states and moves, and how much memory the process has taken.

Knows no requests; it is told when loading starts and ends, and answers whether work may be admitted.
"""

import os
from pathlib import Path

import torch

from diffusion_worker.errors import Draining, NotResident, Refused
from diffusion_worker.records import Residency

MOVES: dict[Residency, frozenset[Residency]] = {
    Residency.COLD: frozenset({Residency.LOADING, Residency.DRAINING}),
    Residency.LOADING: frozenset({Residency.READY, Residency.COLD, Residency.DRAINING}),
    Residency.READY: frozenset({Residency.DEGRADED, Residency.EVICTING, Residency.DRAINING}),
    Residency.DEGRADED: frozenset({Residency.READY, Residency.EVICTING, Residency.DRAINING}),
    Residency.EVICTING: frozenset({Residency.COLD, Residency.DRAINING}),
    Residency.DRAINING: frozenset(),
}
SERVING = frozenset({Residency.READY, Residency.DEGRADED})  # degraded: the last step failed as a whole; work goes on


class Residence:
    """The present state. Any thread may look; only the engine moves it."""

    def __init__(self) -> None:
        self.state = Residency.COLD

    def move(self, to: Residency) -> None:
        """Go to `to`, or stay if already there. Raises ValueError if the table knows no such move."""
        if to == self.state:
            return
        if to not in MOVES[self.state]:
            raise ValueError(f"no move from {self.state} to {to}")
        self.state = to

    def refusal(self) -> Refused | None:
        """Why no work may be admitted now, or None."""
        if self.state in SERVING:
            return None
        if self.state is Residency.DRAINING:
            return Draining("the worker is leaving and takes no new requests", retry_after_s=1.0)
        return NotResident(f"the weights are not in memory: {self.state}", retry_after_s=1.0)


def memory_in_use(device: torch.device | None) -> tuple[int, int]:
    """(used, limit) in bytes: of the accelerator, or of this process and what the machine or its cgroup allows it."""
    if device is not None and device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free, total
    return _resident_bytes(), _host_limit_bytes()


def _resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    if not statm.exists():  # not Linux
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _host_limit_bytes() -> int:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    ceiling = Path("/sys/fs/cgroup/memory.max")
    if not ceiling.exists() or not (text := ceiling.read_text().strip()).isdigit():  # "max": no limit
        return physical
    return min(physical, int(text))
