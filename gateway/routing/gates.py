"""The confidence gate of a route: which of its targets it holds for, and with which minimum."""

from dataclasses import dataclass

from gateway.enums import Capability, Kind, OnLowConfidence
from gateway.types import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """`minimum` holds for the route's first targets and for every worker among its fallbacks; `at_targets`, if there
    are any, for exactly those. `otherwise`: what happens where no answer reaches it."""

    minimum: float | None = None
    at_targets: tuple[tuple[str, float], ...] = ()
    otherwise: OnLowConfidence = OnLowConfidence.ERROR

    def minimum_at(self, target: Target, *, is_first: bool) -> float | None:
        """The minimum confidence of a target; None: the gate does not hold for it."""
        if self.at_targets:
            return dict(self.at_targets).get(target.name)
        return self.minimum if is_first or target.kind is Kind.WORKER else None


def reports_confidence(target: Target) -> bool:
    """Whether the confidence of a target's answers can be known: our worker reports it, and for other servers it is
    computed from the log-probabilities of the tokens, if they support them."""
    if target.kind in (Kind.WORKER, Kind.SCRIPTED):
        return True
    return target.capabilities is not None and Capability.LOGPROBS in target.capabilities.supported
