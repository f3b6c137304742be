"""How attempts end: the errors of their time limits, what they have used, and when to call a target again. Pure."""

from typing import Final

from gateway.decision import AttemptRecord
from gateway.enums import Reason
from gateway.errors import (
    AttemptFailed,
    DeadlineExceeded,
    NotResident,
    Overloaded,
    TargetRateLimited,
    UpstreamAuth,
    UpstreamError,
)
from gateway.policy_types import Price
from gateway.types import Plan, Usage
from twolane.process.records import replaced

_CONCERNS_TARGET: Final = (Overloaded, NotResident, UpstreamError, UpstreamAuth, DeadlineExceeded)
_MOST: Final = 0.9  # of a limit; routing and the end of earlier attempts use up the rest


def priced(usage: Usage | None, price: Price | None) -> Usage | None:
    """The usage with the cost by the target's price, if the policy has one."""
    if usage is None or price is None:
        return usage
    return replaced(usage, cost=price.cost(usage.input_tokens, usage.output_tokens))


def describe_error(record: AttemptRecord, error: AttemptFailed, waited_ms: float, plan: Plan) -> None:
    """Add to the record of an attempt why it failed, `waited_ms` after it began. It is a hang if the target sent
    nothing for as long as the policy lets it: the client's own, shorter deadline, and what earlier attempts left of the
    route's, prove nothing."""
    record.detail = error.log_detail
    # Whoever refuses a request for what it asks refuses no other one.
    record.retry_after_s = error.retry_after_s if isinstance(error, _CONCERNS_TARGET) else None
    record.is_quota = isinstance(error, TargetRateLimited)
    is_silent = record.first_byte_ms is None and waited_ms >= _MOST * plan.silence_limit_ms
    record.is_hang = record.outcome is Reason.DEADLINE and is_silent


def paused_too_long(idle_s: float) -> UpstreamError:
    """A stream paused for longer than the policy lets its target."""
    pause = f"no chunk within {idle_s:g} s"
    return UpstreamError(f"The target stopped sending: {pause}.", detail=pause)


def time_limit_passed(left_ms: float | None, total_left_ms: float, *, is_committed: bool) -> DeadlineExceeded:
    """An attempt reached its limit, with so much left of the request's deadline (None: it has none) and of its total
    time."""
    if is_committed:
        return DeadlineExceeded("The stream exceeded its total time limit.", detail="total limit passed mid-stream")
    is_attempt = left_ms is not None and left_ms >= 1 and total_left_ms >= 1
    detail = "the attempt limit passed" if is_attempt else "deadline passed"
    return DeadlineExceeded("The request's deadline passed.", detail=detail)


def too_large(most_bytes: int, most_events: int) -> UpstreamError:
    """An answer does not fit into what is kept to check it."""
    limit = f"{most_bytes} bytes or {most_events} events"
    return UpstreamError(f"The target's response exceeds {limit} and cannot be validated.", detail="answer too large")
