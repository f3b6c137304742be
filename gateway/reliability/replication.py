"""What one replica of the gateway tells the others of its lanes and targets.

State-based sharing (a G-counter beside a register that only grows; Shapiro et al. 2011, "Conflict-free Replicated Data
Types"): a report says all that its writer counted itself, so hearing it twice, late or out of order does no harm.
Clocks of replicas have nothing in common: times are told as ages in seconds, and `told_s` places them on the hearer's.
"""

from dataclasses import dataclass

from gateway.enums import BreakerState
from gateway.policy_types import Slo


@dataclass(frozen=True, slots=True, kw_only=True)
class TallySnapshot:
    """What was counted in one slice of a window whose middle was `age_s` ago."""

    age_s: float
    total: int
    over: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSnapshot:
    """One lane as its writer sees it. `era` and `stage` only grow: of two replicas the larger pair is the later word.

    Tallies and probes are the writer's own, of this era alone.
    """

    slo: Slo
    era: int
    stage: int
    since_s: float  # age of the present state
    serving_since_s: float  # age of the last return to full service; infinite if there was none
    hold_s: float
    tallies: tuple[TallySnapshot, ...] = ()
    probes: tuple[tuple[float, bool], ...] = ()  # age, and was it late?


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSnapshot:
    """One target's breaker. `era` grows with every opening and closing."""

    era: int
    state: BreakerState
    faults: int
    open_s: float
    opened_s: float  # age of the opening


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudgetSnapshot:
    """What one replica has saved of extra attempts, and how many whole ones it ever gave to and took from others.

    Both only grow, so a gift is taken once however often it is heard of.
    """

    saved: float
    given: tuple[tuple[str, int], ...] = ()  # by the name of the other replica
    taken: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUsageSnapshot:
    """What one replica ever let a key use, and its requests under way."""

    requests: int
    tokens: int
    in_flight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that one replica tells. Lanes and hedges by (route, target), breakers and retries by target, keys by name."""

    lanes: tuple[tuple[tuple[str, str], LaneSnapshot], ...] = ()
    breakers: tuple[tuple[str, BreakerSnapshot], ...] = ()
    hedges: tuple[tuple[tuple[str, str], RetryBudgetSnapshot], ...] = ()
    retries: tuple[tuple[str, RetryBudgetSnapshot], ...] = ()
    keys: tuple[tuple[str, KeyUsageSnapshot], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSnapshot:
    """A report that came, from which replica, and when it was written by the hearer's own clock."""

    name: str
    told_s: float
    snapshot: Snapshot
