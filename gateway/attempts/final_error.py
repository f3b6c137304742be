"""The error of a request that no candidate served, chosen from the failures of all candidates. Pure.

Causes have a total order. One that may pass outranks one that would fail again, so that an outage is never reported as
an invalid request: the target that was down might have served it. Among the lasting causes, what the operator has to
fix outranks what the model did, and that outranks what the request asks for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import inf
from typing import Final

from gateway.enums import Reason
from gateway.errors import (
    AttemptFailed,
    ContextLengthExceeded,
    DeadlineExceeded,
    GatewayError,
    InsufficientQuota,
    NoPrivateTarget,
    NoRoute,
    NoTargetInLocation,
    NotResident,
    Overloaded,
    TargetMisconfigured,
    TargetRateLimited,
    Unsupported,
    UpstreamAuth,
)
from gateway.types import Verdict
from twolane.process.locations import listed

RETRY_S: Final = 1.0


class Cause(IntEnum):
    """Why a candidate did not serve the request; the greatest one is reported."""

    UNSUPPORTED = 0  # lasting: the request asks for what the target lacks
    CONTEXT_LENGTH = 1  # the request is too long
    REFUSED = 2  # the target rejected the request
    OUTPUT = 3  # the model's answer was invalid or uncertain
    ACCOUNT = 4  # the gateway's credentials or account at the provider, or what the policy says of a target
    QUOTA = 5  # may pass: the provider's rate limit
    UNAVAILABLE = 6  # overloaded, not loaded, breaker open, lane ejected
    LATE = 7  # an attempt took too long
    FAULT = 8  # the target failed
    DEADLINE = 9  # the request's own deadline passed


MEANINGS: Final[Mapping[Cause, str]] = {
    Cause.DEADLINE: "The request's deadline passed: 504 `deadline_exceeded`.",
    Cause.FAULT: "A target failed: 502 `upstream_error`, or 503 `no_route` if it was known to be unreachable.",
    Cause.LATE: "An attempt took too long: 504 `deadline_exceeded`.",
    Cause.UNAVAILABLE: "A target was not available: 503 `overloaded`, `not_resident` or `no_route`.",
    Cause.QUOTA: "The providers of the targets limit the rate of requests: 429 `rate_limit_exceeded` with the shortest"
    " `retry-after`.",
    Cause.ACCOUNT: "The gateway's account at a provider has no quota left, its credentials are rejected, or the URL or"
    " model of a target is wrong: 429 `insufficient_quota`, 502 `upstream_auth` or `upstream_error`.",
    Cause.OUTPUT: "An answer did not match what the request asked for, or was uncertain: 502 `invalid_output` or"
    " `low_confidence`.",
    Cause.REFUSED: "A target rejected the request: its own status, code and message.",
    Cause.CONTEXT_LENGTH: "The request is too long: 400 `context_length_exceeded`, in the words of the target with the"
    " longest context.",
    Cause.UNSUPPORTED: "The request asks for what no target supports: 400 `unsupported`.",
}
TRANSIENT: Final = frozenset(cause for cause in Cause if cause >= Cause.QUOTA)
_CAUSES: Final[Mapping[Reason, Cause]] = {
    Reason.UNSUPPORTED: Cause.UNSUPPORTED,
    Reason.CONTEXT_LENGTH_EXCEEDED: Cause.CONTEXT_LENGTH,
    Reason.REFUSED: Cause.REFUSED,
    Reason.INVALID_OUTPUT: Cause.OUTPUT,
    Reason.LOW_CONFIDENCE: Cause.OUTPUT,
    Reason.OVERLOADED: Cause.UNAVAILABLE,
    Reason.NOT_RESIDENT: Cause.UNAVAILABLE,
    Reason.CIRCUIT_OPEN: Cause.UNAVAILABLE,
    Reason.P95_BREACH: Cause.UNAVAILABLE,
    Reason.HEDGE: Cause.UNAVAILABLE,
    Reason.DEADLINE: Cause.LATE,
    Reason.UPSTREAM_AUTH: Cause.ACCOUNT,
    Reason.UPSTREAM_ERROR: Cause.FAULT,
}
# Outages: a request that is limited to some locations is told that targets elsewhere were not tried.
_OUTAGES: Final = frozenset({Cause.ACCOUNT, Cause.UNAVAILABLE, Cause.LATE, Cause.FAULT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One candidate that did not serve the request: the `error` of its attempt, or the `verdict` that skipped it.

    `left_ms` is the time that was left until the request's deadline; None: no deadline.
    """

    target: str
    error: AttemptFailed | None = None
    verdict: Verdict | None = None
    left_ms: float | None = None

    @property
    def reason(self) -> Reason:
        """The reason that headers and logs show."""
        if self.error is not None:
            return self.error.reason
        assert self.verdict is not None
        assert self.verdict.reason is not None
        return self.verdict.reason

    @property
    def cause(self) -> Cause:
        """The rank of the failure."""
        if self.reason is Reason.DEADLINE and self.left_ms is not None and self.left_ms < 1:
            return Cause.DEADLINE
        if isinstance(self.error, InsufficientQuota | TargetMisconfigured):
            return Cause.ACCOUNT
        if isinstance(self.error, TargetRateLimited) or (self.verdict is not None and self.verdict.is_quota):
            return Cause.QUOTA
        return _CAUSES[self.reason]

    @property
    def retry_after_s(self) -> float | None:
        """When this candidate may be tried again, if it said so."""
        return (self.error or self.verdict).retry_after_s  # type: ignore[union-attr]


def final_error(
    failures: Sequence[Failure], *, private: bool = False, locations: frozenset[str] | None = None
) -> GatewayError:
    """The error to report; `failures` are in order of time. `private`: only candidates in the policy's private
    locations were tried; `locations`: only candidates there."""
    own = [failure for failure in failures if failure.verdict is None or not failure.verdict.is_shared]
    if not own:
        return NoRoute("The route has no target.")
    _, chosen = max(enumerate(own), key=lambda each: _rank(each[1], each[0]))
    error = chosen.error or _skip_error(chosen)
    if chosen.cause in (Cause.QUOTA, Cause.UNAVAILABLE):
        waits = [each.retry_after_s for each in own if each.cause is chosen.cause and each.retry_after_s is not None]
        error.retry_after_s = min(waits) if waits else error.retry_after_s or RETRY_S
    if (private or locations is not None) and chosen.cause in _OUTAGES:
        wait_s = RETRY_S if error.retryable else None
        where = "private locations" if locations is None else listed(locations)
        text = f"No target in {where}, to which the request is limited, could serve it. {error.message}"
        kind = NoPrivateTarget if private else NoTargetInLocation
        return kind(text, retry_after_s=wait_s, retryable=error.retryable)
    return error


def _rank(failure: Failure, position: int) -> tuple[int, float, bool, int]:
    """Greatest: the cause; of equal causes the longest context or the shortest wait; then calls; then the last."""
    preference = 0.0
    if failure.cause is Cause.CONTEXT_LENGTH:
        preference = float(getattr(failure.error, "limit", None) or 0)
    elif failure.cause in (Cause.QUOTA, Cause.UNAVAILABLE):
        preference = -(inf if failure.retry_after_s is None else failure.retry_after_s)
    return failure.cause, preference, failure.error is not None, position


def _skip_error(failure: Failure) -> GatewayError:
    """The error for a candidate that was not called."""
    verdict, name = failure.verdict, failure.target
    assert verdict is not None
    detail = verdict.detail
    if failure.cause is Cause.QUOTA:
        return TargetRateLimited(f"The provider of target {name!r} limits the rate of requests: {detail}.")
    match failure.reason:
        case Reason.DEADLINE:
            return DeadlineExceeded(f"The deadline leaves no time for target {name!r}: {detail}.")
        case Reason.UNSUPPORTED:
            return Unsupported(f"Target {name!r} does not support this request: {detail}.", param=verdict.param)
        case Reason.CONTEXT_LENGTH_EXCEEDED:
            return ContextLengthExceeded(f"The request is too long for target {name!r}: {detail}.")
        case Reason.OVERLOADED:
            return Overloaded(f"Target {name!r} is overloaded: {detail}.")
        case Reason.NOT_RESIDENT:
            return NotResident(f"Target {name!r} is not ready: {detail}.")
        case Reason.UPSTREAM_AUTH:
            return UpstreamAuth(f"Target {name!r} rejects the gateway's credentials: {detail}.")
        case reason:
            text = f"No target is available; the last candidate was {name!r}: {reason}."
            return NoRoute(text, retry_after_s=RETRY_S)
