"""The fault schedule of a chaos run, drawn from a seed before the run starts. Pure.

Faults may overlap, but one gateway and one worker are always left: no system could answer without them.
"""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from twolane.fault_proxy.control import Fault, Mode

GATEWAYS: Final = ("gateway-1", "gateway-2")
WORKERS: Final = ("worker-1", "worker-2")
STORE: Final = "redis"
RESTART_S: Final = 8.0  # planned, until a restarted worker or gateway serves
FAULT_FREE_S: Final = 5.0  # at the beginning and at the end


_NO_FAULT: Final = Fault()


class FaultKind(StrEnum):
    """What happens to a part."""

    KILL = "killed"  # SIGKILL; restarted at the end
    TERMINATE = "terminated"  # SIGTERM: it drains; restarted at the end
    PAUSE = "paused"  # SIGSTOP; SIGCONT at the end
    PROXY = "behind a fault"  # the fault proxy corrupts, delays or rejects its responses


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultInjection:
    """One fault, from `at_s` for `seconds`. `fault` is that of the proxy."""

    at_s: float
    seconds: float
    part: str
    kind: FaultKind
    fault: Fault = _NO_FAULT

    @property
    def ends_s(self) -> float:
        """When the part recovers."""
        return self.at_s + self.seconds

    @property
    def serves_s(self) -> float:
        """When the part serves again, on a machine that starts it in RESTART_S."""
        return self.ends_s + RESTART_S

    def __str__(self) -> str:
        return f"{self.part}: {self.fault.mode if self.kind is FaultKind.PROXY else self.kind}"


_FAULTS: Final = (
    Fault(mode=Mode.CORRUPT, share=0.5),
    Fault(mode=Mode.TRUNCATE, share=0.5),
    Fault(mode=Mode.DELAY, seconds=2.0, share=0.5),
    Fault(mode=Mode.DRIP, seconds=0.5, share=0.3),
    Fault(mode=Mode.RESET, share=0.5),
    Fault(mode=Mode.TOO_MANY, seconds=1.0, share=0.5),
    Fault(mode=Mode.BROKEN, share=0.5),
)
# part, kind, shortest and longest duration (seconds), weight
_KINDS: Final = (
    *((worker, FaultKind.KILL, (1.0, 6.0), 2) for worker in WORKERS),
    *((worker, FaultKind.PAUSE, (1.0, 6.0), 2) for worker in WORKERS),
    *((worker, FaultKind.TERMINATE, (1.0, 4.0), 1) for worker in WORKERS),
    *((worker, FaultKind.PROXY, (3.0, 8.0), 4) for worker in WORKERS),
    *((gateway, FaultKind.KILL, (0.5, 3.0), 1) for gateway in GATEWAYS),
    *((gateway, FaultKind.PAUSE, (0.5, 3.0), 1) for gateway in GATEWAYS),
    *((gateway, FaultKind.TERMINATE, (0.5, 3.0), 1) for gateway in GATEWAYS),
    (STORE, FaultKind.KILL, (2.0, 8.0), 2),
    (STORE, FaultKind.PAUSE, (2.0, 8.0), 2),
)


def schedule_faults(seconds: float, every_s: float, seed: int) -> tuple[FaultInjection, ...]:
    """Schedule a fault every `every_s` seconds on average, none near the beginning or the end. Kinds are drawn without
    replacement, in proportion to their weights."""
    rng = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    planned: list[FaultInjection] = []
    bag: list[tuple[str, FaultKind, tuple[float, float], int]] = []
    at_s = FAULT_FREE_S
    while True:
        if not bag:
            bag = [entry for entry in _KINDS for _ in range(entry[3])]
            rng.shuffle(bag)
        part, kind, (least, most), _ = bag.pop()
        fault = rng.choice(_FAULTS) if kind is FaultKind.PROXY else _NO_FAULT
        one = FaultInjection(at_s=at_s, seconds=rng.uniform(least, most), part=part, kind=kind, fault=fault)
        one = _postponed(one, planned)
        if one.ends_s > seconds - FAULT_FREE_S:
            return tuple(sorted(planned, key=lambda injection: injection.at_s))
        planned.append(one)
        at_s += rng.uniform(0.5, 1.5) * every_s


def _postponed(one: FaultInjection, planned: list[FaultInjection]) -> FaultInjection:
    """Return the fault, later if its part (or any gateway, for a gateway) is still affected by an earlier fault."""
    busy = GATEWAYS if one.part in GATEWAYS else (one.part,)
    free_s = max((other.serves_s for other in planned if other.part in busy), default=0.0)
    at_s = max(one.at_s, free_s)
    return FaultInjection(at_s=at_s, seconds=one.seconds, part=one.part, kind=one.kind, fault=one.fault)
