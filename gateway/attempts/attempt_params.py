"""What one attempt needs, beside the context of its request."""

from math import inf

from gateway.ports import Permit, Upstream
from gateway.types import Candidate
from twolane.process.records import record


@record
class AttemptParams:
    """The permit, the upstream client, and what depends on the remaining candidates.

    `limit_ms` is the time within which the response must be ready to be served: as a whole, or the beginning of a
    stream that is passed on as it comes. `total_ms` is the time left for such a stream as a whole.
    """

    candidate: Candidate
    permit: Permit
    upstream: Upstream
    limit_ms: float = inf
    total_ms: float = inf
    is_last: bool = True  # no candidate is left, so a refusal is served
    hedge: bool = False
    queued_ms: float | None = None
