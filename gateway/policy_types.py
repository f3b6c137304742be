"""Settings that a policy defines for lanes, extra attempts and API keys: SLOs, checks, hedging, retries, limits, and
what is left of the limits of a key. Limits to locations, which requests, keys and routes state."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Final

from gateway.enums import Buffer, RunawayScope

DEFAULT_TOTAL_MS: Final = 1_800_000.0  # half an hour: longer than any answer that somebody waits for
DEFAULT_IDLE_S: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """A lane's latency objectives, and how it recovers from an ejection. An objective that is not set is infinite.

    `first_token_p95_ms` applies to streams: from the call to the first token of the response.
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
    """How a response is validated. With `buffer: first_bytes`, that many bytes of its text are buffered.

    `repair` closes unambiguously unclosed JSON syntax. `send_error_to_fallback` sends the validation error to the next
    target. `runaway` says which streamed texts are cut when they run away.
    """

    buffer: Buffer = Buffer.FULL
    first_bytes: int = 256
    repair: bool = False
    send_error_to_fallback: bool = False
    runaway: RunawayScope = RunawayScope.FORM


# Checks of a route without `validate`: streams are read along while they are forwarded.
READ_ALONG: Final = Checks(buffer=Buffer.NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedge:
    """Send a second attempt to the next target after `after_ms` (None: after the lane's p95 latency).

    At most `max_share` of the lane's requests are hedged.
    """

    after_ms: float | None = None
    max_share: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Retry the same target up to `times` after an upstream error, for at most `max_share` of its requests."""

    times: int = 1
    max_share: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Requests that wait for a slot of a full target, and for how long. `max_requests` 0: none waits."""

    max_requests: int = 64
    max_wait_ms: float = 1000.0


DEFAULT_QUEUE: Final = Queue()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Rate limits of an API key. `keys` None applies to every key without its own limit, and to all keyless requests
    together.

    A per-minute quota may be used at once and refills evenly over the next minute. None means unlimited.
    """

    keys: frozenset[str] | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None  # input and output together, as targets report them
    max_in_flight: int | None = None
    tokens_per_day: float | None = None  # UTC days
    dollars_per_day: float | None = None  # as far as the costs of targets are known

    @property
    def is_daily(self) -> bool:
        """Whether it includes a budget per day."""
        return self.tokens_per_day is not None or self.dollars_per_day is not None


@dataclass(frozen=True, slots=True)
class LocationLimit:
    """Locations outside which a request must not be sent. `source` says where that is stated, for errors."""

    source: str
    allowed: frozenset[str]


def allowed_by(limits: Iterable[LocationLimit]) -> frozenset[str] | None:
    """The locations that all limits allow; None without a limit."""
    sets = [limit.allowed for limit in limits]
    return frozenset.intersection(*sets) if sets else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a target costs, in US dollars per million tokens."""

    input: float
    output: float

    def cost(self, input_tokens: int | None, output_tokens: int | None) -> float:
        """The cost of one call in US dollars."""
        return ((input_tokens or 0) * self.input + (output_tokens or 0) * self.output) / 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRefusal:
    """A request over a limit of its key. `is_daily`: over the budget of the day."""

    wait_s: float
    is_daily: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitStatus:
    """One limit per minute: its size, what is left now, and the seconds until all of it is available again."""

    limit: float
    remaining: float
    reset_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What is left of a key's limits per minute; None where it has none."""

    requests: LimitStatus | None
    tokens: LimitStatus | None
