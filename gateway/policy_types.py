"""The terms a policy sets: what its lanes promise, which extra attempts keeping it may cost, and what keys may use.

Records only; the units stand in the names.
"""

from dataclasses import dataclass
from math import inf

from gateway.enums import Buffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What a lane promises, and how it may come back after a ejection. What is not promised is infinite.

    `first_token_p95_ms` counts for streams: from the call to the first word of the answer.
    """

    p95_ms: float = inf
    first_token_p95_ms: float = inf
    window_s: float = 60.0
    recover_ratio: float = 0.8
    probe_share: float = 0.02
    probe_every_s: float = 2.0
    base_ejection_s: float = 10.0
    max_ejection_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """How an answer is held to what its request asked for. `first_bytes` of its text are held back by `buffer:
    first_bytes`.

    `repair`: close syntax that is unambiguously unclosed. `send_error_to_fallback`: tell the next target what was
    wrong."""

    buffer: Buffer = Buffer.FULL
    first_bytes: int = 256
    repair: bool = False
    send_error_to_fallback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedge:
    """Ask the next target beside one that takes longer than `after_ms` (None: than 19 in 20 of its answers do).

    At most `max_share` of the lane's requests are asked twice.
    """

    after_ms: float | None = None
    max_share: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Ask the same target again, up to `times`, after it broke: at most `max_share` of the requests sent to it."""

    times: int = 1
    max_share: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What one key may use. `keys` None: each key that no other limit names, and all requests without a key together.

    What is said for a minute may be used at once, and comes back evenly over the next minute. None: without limit.
    """

    keys: frozenset[str] | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None  # in and out together, as targets count them
    max_in_flight: int | None = None
