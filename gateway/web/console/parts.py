"""What the console shows, and how it reaches it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp

from gateway.policy_types import Limit, Quota
from gateway.reliability.daily_budgets import Spent
from gateway.routing.policy import Policy
from gateway.web.console.history import History
from gateway.web.console.live import LiveFeed
from gateway.web.console.proposals import Proposals
from gateway.web.console.sessions import Sessions
from twolane.process.api_keys import Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What keys have used: `quota` per minute and `spent` today, by name of the key."""

    quota: Callable[[str, Limit], Quota]
    spent: Callable[[str], Spent]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleParts:
    """What the console shows. `apis` are the applications that answer requests of the playground, by path. `trace_url`:
    address of a trace, with `{trace}` for its id; `public_url`: of the public port, as applications on this machine
    reach it."""

    policy: Callable[[], Policy]
    history: History
    feed: LiveFeed
    proposals: Proposals
    usage: Usage
    current_keys: Callable[[], Keys] | None
    sessions: Sessions | None
    apis: Mapping[str, ASGIApp]
    public_url: str
    trace_url: str | None = None
