"""Snapshots that gateway replicas exchange to share the state of lanes, breakers, budgets and keys.

State-based replication (grow-only counters and registers; Shapiro et al. 2011, "Conflict-free Replicated Data Types"):
a snapshot contains all counts of its own writer, so receiving it twice, late or out of order is harmless. Clocks of
replicas are unrelated, so times are sent as ages in seconds; `written_s` converts them to the reader's clock.
"""

from dataclasses import dataclass

from gateway.enums import BreakerState
from gateway.policy_types import Slo


@dataclass(frozen=True, slots=True, kw_only=True)
class TallySnapshot:
    """Counts of one slice of a window; `age_s` is the age of its middle."""

    age_s: float
    total: int
    over: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSnapshot:
    """One lane as its writer sees it. Of two replicas, the larger pair of `epoch` and `ramp_stage` is the later state.

    Tallies and probes are the writer's own, in this epoch only.
    """

    slo: Slo
    epoch: int
    ramp_stage: int
    since_s: float  # age of the current state
    serving_since_s: float  # age of the last return to full service; infinite if there was none
    ejection_s: float
    tallies: tuple[TallySnapshot, ...] = ()
    probes: tuple[tuple[float, bool], ...] = ()  # age, and whether it was late


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSnapshot:
    """One target's breaker. `epoch` grows with every opening and closing."""

    epoch: int
    state: BreakerState
    failures: int
    open_s: float
    opened_s: float  # age of the opening


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldSnapshot:
    """A target that asked not to be called for a while: the time left, and whether a rate limit is the cause."""

    left_s: float
    is_quota: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudgetSnapshot:
    """The balance of one replica's retry budget, and the total of its transfers to and from other replicas.

    The totals only grow, so a transfer is credited once, however often it is received.
    """

    balance: float
    sent: tuple[tuple[str, int], ...] = ()  # by the name of the other replica
    received: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUsageSnapshot:
    """Total usage of a key at one replica, and its requests in flight."""

    requests: int
    tokens: int
    in_flight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything one replica sends: lanes and hedges by (route, target), breakers, retries, holds by target, keys."""

    lanes: tuple[tuple[tuple[str, str], LaneSnapshot], ...] = ()
    breakers: tuple[tuple[str, BreakerSnapshot], ...] = ()
    hedges: tuple[tuple[tuple[str, str], RetryBudgetSnapshot], ...] = ()
    retries: tuple[tuple[str, RetryBudgetSnapshot], ...] = ()
    keys: tuple[tuple[str, KeyUsageSnapshot], ...] = ()
    holds: tuple[tuple[str, HoldSnapshot], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSnapshot:
    """A received snapshot, the name of its replica, and when it was written, by the reader's clock."""

    name: str
    written_s: float
    snapshot: Snapshot
