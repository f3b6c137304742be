"""Records of the engine's state, for health endpoints and metrics."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Residency(StrEnum):
    """State of the model's weights, as reported by `/health`."""

    COLD = "cold"
    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    EVICTING = "evicting"
    FAILED = "failed"  # the device cannot be used by this process again
    DRAINING = "draining"


class Pressure(IntEnum):
    """Memory-pressure level; each level includes the measures of the ones below it."""

    NONE = 0
    PREFIX_CACHE = 1  # the prefix cache is dropped
    BATCH = 2  # fewer sequences run together
    ADMISSION = 3  # new requests are rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """Snapshot of the engine, for health endpoints and metrics."""

    state: Residency
    running: int
    waiting: int
    max_num_seqs: int
    predicted_wait_ms: float | None  # None until a step has been measured
    memory_used_bytes: int
    memory_limit_bytes: int
    kv_bytes: int
    weight_bytes: int = 0  # 0: not loaded
    retained_contexts: int = 0  # of ended requests, kept in the prefix cache
    pressure: Pressure = Pressure.NONE
