"""Where the weights are, as a table of states and moves, and how much memory the process has taken.

Knows no requests; it is told when loading starts and ends, and answers whether work may be admitted.
"""

import os
import re
from pathlib import Path

import torch

from diffusion_worker.errors import Draining, NotResident, Refused
from diffusion_worker.types.status import Residency

TRANSITIONS: dict[Residency, frozenset[Residency]] = {
    Residency.COLD: frozenset({Residency.LOADING, Residency.DRAINING}),
    Residency.LOADING: frozenset({Residency.READY, Residency.COLD, Residency.DRAINING}),
    Residency.READY: frozenset({Residency.DEGRADED, Residency.EVICTING, Residency.DRAINING}),
    Residency.DEGRADED: frozenset({Residency.READY, Residency.EVICTING, Residency.DRAINING}),
    Residency.EVICTING: frozenset({Residency.COLD, Residency.DRAINING}),
    Residency.DRAINING: frozenset(),
}
CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
SERVING = frozenset(
    {Residency.READY, Residency.DEGRADED}
)  # degraded: the last step failed as a whole, or memory is short


class ModelLifecycle:
    """The present state. Any thread may look; only the engine moves it."""

    def __init__(self) -> None:
        self.state = Residency.COLD

    def transition(self, to: Residency) -> None:
        """Go to `to`, or stay if already there. Raises ValueError if the table knows no such move."""
        if to == self.state:
            return
        if to not in TRANSITIONS[self.state]:
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
    """(used, limit) in bytes: of the accelerator, or of what the process may use of its machine: its cgroup where that
    has a limit, and the whole machine where not. Whoever else is in there counts: the kernel ends processes for them,
    too."""
    if device is not None and device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free, total
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return _cgroup_bytes(CGROUP) or _machine_bytes(MEMINFO) or (resident_bytes(), whole)


def release_cached() -> None:
    """Give back what allocators keep for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def resident_bytes() -> int:
    """What this process holds of the machine's memory; 0 where nobody tells."""
    statm = Path("/proc/self/statm")
    if not statm.exists():  # not Linux
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cgroup_bytes(cgroup: Path) -> tuple[int, int] | None:
    """(working set, limit) of a cgroup, version 2; None without a limit. As the kubelet counts: memory less the file
    pages that the kernel would drop first."""
    ceiling, current = _content(cgroup / "memory.max"), _content(cgroup / "memory.current")
    if not ceiling.isdigit() or not current.isdigit():  # "max": no limit
        return None
    found = re.search(r"^inactive_file (\d+)$", _content(cgroup / "memory.stat"), re.MULTILINE)
    return max(0, int(current) - int(found[1] if found else 0)), int(ceiling)


def _machine_bytes(meminfo: Path) -> tuple[int, int] | None:
    """(not available, all) of the machine: pages that the kernel would give up for the asking are available (Linux)."""
    fields = dict(re.findall(r"^(\w+): +(\d+) kB$", _content(meminfo), re.MULTILINE))
    if "MemTotal" not in fields or "MemAvailable" not in fields:
        return None
    whole = int(fields["MemTotal"]) * 1024
    return max(0, whole - int(fields["MemAvailable"]) * 1024), whole


def _content(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
