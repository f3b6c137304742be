"""The model lifecycle as a state machine (cold, loading, ready, ...), and the memory usage of the process.

Decides whether requests may be admitted in the current state.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import torch

from diffusion_worker.errors import DeviceFailed, Draining, NotResident, Refused
from diffusion_worker.types.status import Residency

TRANSITIONS: dict[Residency, frozenset[Residency]] = {
    Residency.COLD: frozenset({Residency.LOADING, Residency.DRAINING}),
    Residency.LOADING: frozenset({Residency.READY, Residency.COLD, Residency.FAILED, Residency.DRAINING}),
    Residency.READY: frozenset({Residency.DEGRADED, Residency.EVICTING, Residency.FAILED, Residency.DRAINING}),
    Residency.DEGRADED: frozenset({Residency.READY, Residency.EVICTING, Residency.FAILED, Residency.DRAINING}),
    Residency.EVICTING: frozenset({Residency.COLD, Residency.FAILED, Residency.DRAINING}),
    Residency.FAILED: frozenset({Residency.DRAINING}),
    Residency.DRAINING: frozenset(),
}
CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
# Degraded: the last step failed as a whole, or memory pressure shrinks the batch.
SERVING = frozenset({Residency.READY, Residency.DEGRADED})


class ModelLifecycle:
    """The current state. Any thread may read it; only the engine changes it."""

    def __init__(self) -> None:
        self.state = Residency.COLD

    def transition(self, to: Residency) -> None:
        """Change to state `to`; no effect if already there. Raises ValueError for a transition that does not exist."""
        if to == self.state:
            return
        if to not in TRANSITIONS[self.state]:
            raise ValueError(f"no transition from {self.state} to {to}")
        self.state = to

    def refusal(self) -> Refused | None:
        """The error for requests that cannot be admitted in this state, or None."""
        if self.state in SERVING:
            return None
        if self.state is Residency.DRAINING:
            return Draining("the worker is shutting down and accepts no new requests", retry_after_s=1.0)
        if self.state is Residency.FAILED:
            return DeviceFailed("the device failed; the worker is exiting", retry_after_s=1.0)
        return NotResident(f"the weights are not loaded (state: {self.state})", retry_after_s=1.0)


def memory_in_use(device: torch.device | None) -> tuple[int, int]:
    """(used, limit) in bytes of the accelerator, or of the cgroup if it has a limit, or of the machine. Memory of other
    processes counts: the kernel's out-of-memory killer counts it, too."""
    if device is not None and device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        reserved, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
        return card_usage(free=free, total=total, reserved=reserved, allocated=allocated)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return _cgroup_bytes(CGROUP) or _machine_bytes(MEMINFO) or (resident_bytes(), whole)


def card_usage(*, free: int, total: int, reserved: int, allocated: int) -> tuple[int, int]:
    """(used, limit) of a card, from the driver's `free` bytes and those of torch's caching allocator: what it has
    `reserved` but not `allocated` to tensors is available to the next step, so it is not in use."""
    return max(0, total - free - max(0, reserved - allocated)), total


def tensor_bytes(device: torch.device, known: int) -> int:
    """Bytes of this process's tensors on the device: on a card those of torch's allocator, elsewhere `known`."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else known


def fullest(usages: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The (used, limit) with the largest share in use; a limit of 0 means unknown."""
    return max(usages, key=lambda usage: usage[0] / usage[1] if usage[1] > 0 else 0.0)


def release_cached() -> None:
    """Return memory that allocators cache to the system."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def resident_bytes() -> int:
    """Resident memory of this process in bytes; 0 where the system does not report it."""
    statm = Path("/proc/self/statm")
    if not statm.exists():  # not Linux
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cgroup_bytes(cgroup: Path) -> tuple[int, int] | None:
    """(working set, limit) of a cgroup v2; None without a limit. As the kubelet counts: memory less inactive file
    pages."""
    ceiling, current = _content(cgroup / "memory.max"), _content(cgroup / "memory.current")
    if not ceiling.isdigit() or not current.isdigit():  # "max": no limit
        return None
    found = re.search(r"^inactive_file (\d+)$", _content(cgroup / "memory.stat"), re.MULTILINE)
    return max(0, int(current) - int(found[1] if found else 0)), int(ceiling)


def _machine_bytes(meminfo: Path) -> tuple[int, int] | None:
    """(unavailable, total) bytes of the machine, from /proc/meminfo (Linux); reclaimable pages are available."""
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
