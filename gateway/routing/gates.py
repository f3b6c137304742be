"""The confidence gate of a route: which of its targets it holds for, and with which minimum."""

from dataclasses import dataclass
from typing import Final

from gateway.enums import Capability, Kind, OnLowConfidence
from gateway.routing.engine_profiles import DIFFUSION
from gateway.types import Target

_OURS: Final = frozenset({Kind.WORKER, Kind.SCRIPTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """`minimum` holds for the route's first targets and for every diffusion engine among its fallbacks; `at_targets`,
    if there are any, for exactly those. `otherwise`: what happens where no answer reaches it."""

    minimum: float | None = None
    at_targets: tuple[tuple[str, float], ...] = ()
    otherwise: OnLowConfidence = OnLowConfidence.ERROR

    def minimum_at(self, target: Target, *, is_first: bool) -> float | None:
        """The minimum confidence of a target; None: the gate does not hold for it."""
        if self.at_targets:
            return dict(self.at_targets).get(target.name)
        return self.minimum if is_first or is_diffusion(target) else None


def minimum_in(gate: Gate | None, target: Target, *, is_first: bool) -> float | None:
    """The minimum confidence of a target in a route with this gate: the route's, or else the target's own."""
    found = None if gate is None else gate.minimum_at(target, is_first=is_first)
    return target.min_confidence if found is None else found


def reports_confidence(target: Target) -> bool:
    """Whether the confidence of a target's texts can be known: our worker reports it, and for other servers it is
    computed from the log-probabilities of the tokens, if they support them."""
    return target.kind in _OURS or _supports(target, Capability.LOGPROBS)


def is_diffusion(target: Target) -> bool:
    """Whether a target is known to serve a diffusion model: our worker, or an engine that serves nothing else."""
    return target.kind is Kind.WORKER or target.engine in DIFFUSION


def is_gateable(target: Target) -> bool:
    """Whether any confidence of a target can be known: that of its texts, or of its answers to decisions."""
    return reports_confidence(target) or _supports(target, Capability.DECISIONS)


def _supports(target: Target, capability: Capability) -> bool:
    return target.capabilities is not None and capability in target.capabilities.supported
