"""Records of the engine's state, for health endpoints and metrics."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Residency(StrEnum):
    """Where the weights are; the word in `/health`."""

    COLD = "cold"
    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    EVICTING = "evicting"
    DRAINING = "draining"


class Pressure(IntEnum):
    """What memory pressure has made the worker give up, each rung including the ones before."""

    NONE = 0
    PREFIX_CACHE = 1  # contexts retained for reuse
    BATCH = 2  # part of the sequences that run together
    ADMISSION = 3  # new requests


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """One look at the engine, for health and metrics."""

    state: Residency
    running: int
    waiting: int
    max_num_seqs: int
    predicted_wait_ms: float | None  # None until a step has been measured
    memory_used_bytes: int
    memory_limit_bytes: int
    kv_bytes: int
    weight_bytes: int = 0  # 0: they are not in memory
    retained_contexts: int = 0  # of former requests, kept for reuse
    pressure: Pressure = Pressure.NONE
