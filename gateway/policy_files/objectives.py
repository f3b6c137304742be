"""Keys that targets and routes share: names, SLOs, hedges and retries."""

import re
from enum import StrEnum
from math import inf
from typing import Final

from gateway.policy_files import renamed_keys
from gateway.policy_files.section import Section
from gateway.policy_types import DEFAULT_QUEUE, Hedge, Queue, Retry, Slo

# Names appear in headers (`fast=ok,quality=ok`) and as metric labels.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}")
_HOUR_S: Final = 3600
_DEFAULTS: Final = Slo()
MAX_HEDGE_SHARE: Final = 0.5
MAX_RETRY_SHARE: Final = 0.2  # more than 1.2 attempts per request turn an outage into a retry storm


def check_name(section: Section, name: object, *, reserved: str, key: str | None = None) -> None:
    """Refuse a reserved name and one that is not valid in headers and metric labels."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise section.error(
            "a name consists of letters, digits and _ . : - and has at most 63 characters", key or str(name)
        )
    if name == reserved:
        raise section.error(f"the name {reserved!r} is reserved", key or name)


def read_slo(entry: Section) -> Slo | None:
    """The `slo` of a route or target; None without one."""
    slo = entry.section("slo")
    if slo is None:
        return None
    slo.reject_renamed(renamed_keys.SLO)
    objective = Slo(
        p95_ms=slo.number("p95_ms", _DEFAULTS.p95_ms, minimum=1, maximum=_HOUR_S * 1000),
        first_token_p95_ms=slo.number("first_token_p95_ms", _DEFAULTS.p95_ms, minimum=1, maximum=_HOUR_S * 1000),
        window_s=slo.number("window_s", _DEFAULTS.window_s, minimum=1, maximum=_HOUR_S),
        recover_ratio=slo.number("recover_ratio", _DEFAULTS.recover_ratio, minimum=0.05, maximum=1),
        probe_share=slo.number("probe_share", _DEFAULTS.probe_share, minimum=0, maximum=0.5),
        probe_every_s=slo.number("probe_every_s", _DEFAULTS.probe_every_s, minimum=0.01, maximum=_HOUR_S),
        base_ejection_s=slo.number("base_ejection_s", _DEFAULTS.base_ejection_s, minimum=0, maximum=_HOUR_S),
        max_ejection_s=slo.number("max_ejection_s", _DEFAULTS.max_ejection_s, minimum=0, maximum=_HOUR_S),
    )
    slo.close()
    if objective.p95_ms == objective.first_token_p95_ms == inf:
        raise slo.error("set `p95_ms`, `first_token_p95_ms` or both")
    if objective.max_ejection_s < objective.base_ejection_s:
        raise slo.error("max_ejection_s must not be below base_ejection_s", "max_ejection_s")
    return objective


def read_hedge(entry: Section, slo: Slo | None) -> Hedge | None:
    """The `hedge` of a route. `after: p95` needs an SLO, because only lanes with an SLO measure their p95."""
    hedge = entry.section("hedge")
    if hedge is None:
        return None
    after_ms = hedge.number("after_ms", None, minimum=1, maximum=_HOUR_S * 1000)
    after = hedge.choice("after", _HedgeAfter, None)
    share = hedge.number("max_share", Hedge().max_share, minimum=0, maximum=MAX_HEDGE_SHARE)
    hedge.close()
    if (after is None) == (after_ms is None):
        raise hedge.error("requires exactly one of `after_ms` and `after: p95`", "after" if after else None)
    if after is not None and (slo is None or slo.p95_ms == inf):
        raise hedge.error("`after: p95` requires `slo.p95_ms` on this route", "after")
    return Hedge(after_ms=after_ms, max_share=share)


class _HedgeAfter(StrEnum):
    P95 = "p95"


def read_retry(entry: Section) -> Retry | None:
    """The `retry` of a target; None disables retries."""
    retry = entry.section("retry")
    if retry is None:
        return None
    defaults = Retry()
    times = retry.integer("times", defaults.times, minimum=1, maximum=3)
    share = retry.number("max_share", defaults.max_share, minimum=0, maximum=MAX_RETRY_SHARE)
    retry.close()
    return Retry(times=times, max_share=share)


def read_queue(entry: Section) -> Queue:
    """The `queue` of a target that limits its requests in flight."""
    queue = entry.section("queue")
    if queue is None:
        return DEFAULT_QUEUE
    if not entry.has("max_in_flight"):
        raise entry.error("requires `max_in_flight`: without it, the target is never full", "queue")
    most = queue.integer("max_requests", DEFAULT_QUEUE.max_requests, minimum=0, maximum=100_000)
    wait_ms = queue.number("max_wait_ms", DEFAULT_QUEUE.max_wait_ms, minimum=1, maximum=_HOUR_S * 1000)
    queue.close()
    return Queue(max_requests=most, max_wait_ms=wait_ms)
