"""What goes wrong in a chaos run, and when: drawn from a seed before it begins. Pure.

Troubles may overlap, but there is always one gateway and one place that can answer left: more than that, nobody could
survive.
"""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from twolane.fault_proxy.control import Fault, Mode

GATEWAYS: Final = ("gateway-1", "gateway-2")
WORKERS: Final = ("worker-1", "worker-2")
STORE: Final = "redis"
CALM_AT_BOTH_ENDS_S: Final = 5.0


_SOUND: Final = Fault()


class Deed(StrEnum):
    """What is done to a part."""

    KILL = "killed"  # SIGKILL; started again at the end
    LEAVE = "told to leave"  # SIGTERM: it drains; started again at the end
    PAUSE = "paused"  # SIGSTOP, at the end SIGCONT
    SPOIL = "spoilt"  # what it answers passes through a fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One thing that goes wrong, from `at_s` for `seconds`."""

    at_s: float
    seconds: float
    part: str
    deed: Deed
    fault: Fault = _SOUND

    @property
    def ends_s(self) -> float:
        """When it is made good."""
        return self.at_s + self.seconds

    def __str__(self) -> str:
        how = f" ({self.fault.mode})" if self.deed is Deed.SPOIL else ""
        return f"{self.part} {self.deed}{how}"


_FAULTS: Final = (
    Fault(mode=Mode.CORRUPT, share=0.5),
    Fault(mode=Mode.TRUNCATE, share=0.5),
    Fault(mode=Mode.DELAY, seconds=2.0, share=0.5),
    Fault(mode=Mode.DRIP, seconds=0.5, share=0.3),
    Fault(mode=Mode.RESET, share=0.5),
    Fault(mode=Mode.TOO_MANY, seconds=1.0, share=0.5),
    Fault(mode=Mode.BROKEN, share=0.5),
)
# part, deed, how long (seconds), how often beside the others
_KINDS: Final = (
    *((worker, Deed.KILL, (1.0, 6.0), 2) for worker in WORKERS),
    *((worker, Deed.PAUSE, (1.0, 6.0), 2) for worker in WORKERS),
    *((worker, Deed.LEAVE, (1.0, 4.0), 1) for worker in WORKERS),
    *((worker, Deed.SPOIL, (3.0, 8.0), 4) for worker in WORKERS),
    *((gateway, Deed.KILL, (0.5, 3.0), 1) for gateway in GATEWAYS),
    *((gateway, Deed.PAUSE, (0.5, 3.0), 1) for gateway in GATEWAYS),
    *((gateway, Deed.LEAVE, (0.5, 3.0), 1) for gateway in GATEWAYS),
    (STORE, Deed.KILL, (2.0, 8.0), 2),
    (STORE, Deed.PAUSE, (2.0, 8.0), 2),
)


def troubles(seconds: float, every_s: float, seed: int) -> tuple[Trouble, ...]:
    """About one every `every_s` seconds, none near the beginning or the end; every kind comes before any comes again
    as often as its weight says."""
    draw = random.Random(seed)  # noqa: S311 - a plan, not a secret
    planned: list[Trouble] = []
    bag: list[tuple[str, Deed, tuple[float, float], int]] = []
    at_s = CALM_AT_BOTH_ENDS_S
    while True:
        if not bag:
            bag = [kind for kind in _KINDS for _ in range(kind[3])]
            draw.shuffle(bag)
        part, deed, (least, most), _ = bag.pop()
        fault = draw.choice(_FAULTS) if deed is Deed.SPOIL else _SOUND
        one = Trouble(at_s=at_s, seconds=draw.uniform(least, most), part=part, deed=deed, fault=fault)
        one = _put_off(one, planned)
        if one.ends_s > seconds - CALM_AT_BOTH_ENDS_S:
            return tuple(sorted(planned, key=lambda trouble: trouble.at_s))
        planned.append(one)
        at_s += draw.uniform(0.5, 1.5) * every_s


def _put_off(one: Trouble, planned: list[Trouble]) -> Trouble:
    """Later, as long as its part (of gateways: any) is in trouble or on its way back."""
    busy = GATEWAYS if one.part in GATEWAYS else (one.part,)
    free_s = max((other.ends_s + _BACK_S for other in planned if other.part in busy), default=0.0)
    at_s = max(one.at_s, free_s)
    return Trouble(at_s=at_s, seconds=one.seconds, part=one.part, deed=one.deed, fault=one.fault)


_BACK_S: Final = 8.0  # until a worker or a gateway that was started again serves
