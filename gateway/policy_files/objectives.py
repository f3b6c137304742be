"""Words that targets and routes share: names, what a lane promises, and which extra attempts that may cost."""

import re
from enum import StrEnum
from math import inf
from typing import Final

from gateway.policy_files.section import Section
from gateway.policy_types import Hedge, Retry, Slo

# Names appear in headers (`fast=ok,quality=ok`) and as metric labels.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}")
_HOUR_S: Final = 3600
_PLAIN: Final = Slo()
MOST_HEDGED: Final = 0.5
MOST_RETRIED: Final = 0.2  # more than 1.2 attempts per request is how an outage becomes a storm


def check_name(section: Section, name: object, *, reserved: str, key: str | None = None) -> None:
    """Refuse a name that could not stand in a header, or that means something else already."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise section.fault("a name is letters, digits and _ . : - (at most 63)", key or str(name))
    if name == reserved:
        raise section.fault(f"the name {reserved!r} is reserved", key or name)


def read_slo(entry: Section) -> Slo | None:
    """The `slo` of a route or target, or None if it promises nothing."""
    slo = entry.section("slo")
    if slo is None:
        return None
    promise = Slo(
        p95_ms=slo.number("p95_ms", _PLAIN.p95_ms, least=1, most=_HOUR_S * 1000),
        first_token_p95_ms=slo.number("first_token_p95_ms", _PLAIN.p95_ms, least=1, most=_HOUR_S * 1000),
        window_s=slo.number("window_s", _PLAIN.window_s, least=1, most=_HOUR_S),
        recover_ratio=slo.number("recover_ratio", _PLAIN.recover_ratio, least=0.05, most=1),
        probe_share=slo.number("probe_share", _PLAIN.probe_share, least=0, most=0.5),
        probe_every_s=slo.number("probe_every_s", _PLAIN.probe_every_s, least=0.01, most=_HOUR_S),
        base_ejection_s=slo.number("base_ejection_s", _PLAIN.base_ejection_s, least=0, most=_HOUR_S),
        max_ejection_s=slo.number("max_ejection_s", _PLAIN.max_ejection_s, least=0, most=_HOUR_S),
    )
    slo.close()
    if promise.p95_ms == promise.first_token_p95_ms == inf:
        raise slo.fault("promises nothing: give `p95_ms`, `first_token_p95_ms` or both")
    if promise.max_ejection_s < promise.base_ejection_s:
        raise slo.fault("max_ejection_s is below base_ejection_s", "max_ejection_s")
    return promise


def read_hedge(entry: Section, slo: Slo | None) -> Hedge | None:
    """The `hedge` of a route: after a time, or after its p95, which only a lane with a promise keeps count of."""
    hedge = entry.section("hedge")
    if hedge is None:
        return None
    after_ms = hedge.number("after_ms", None, least=1, most=_HOUR_S * 1000)
    after = hedge.word("after", _After, None)
    share = hedge.number("max_share", Hedge().max_share, least=0, most=MOST_HEDGED)
    hedge.close()
    if (after is None) == (after_ms is None):
        raise hedge.fault("needs either `after_ms` or `after: p95`", "after" if after else None)
    if after is not None and (slo is None or slo.p95_ms == inf):
        raise hedge.fault("after: p95 needs `slo.p95_ms` on this route, by which answers are timed", "after")
    return Hedge(after_ms=after_ms, max_share=share)


class _After(StrEnum):
    P95 = "p95"


def read_retry(entry: Section) -> Retry | None:
    """The `retry` of a target, or None if it is asked once."""
    retry = entry.section("retry")
    if retry is None:
        return None
    plain = Retry()
    times = retry.integer("times", plain.times, least=1, most=3)
    share = retry.number("max_share", plain.max_share, least=0, most=MOST_RETRIED)
    retry.close()
    return Retry(times=times, max_share=share)
