"""The `limits` section of a policy: rate limits, concurrency limits and daily budgets per API key."""

from typing import Final

from gateway.policy_files.section import Section
from gateway.policy_types import Limit

_MAX: Final = 1e9
_KEYS: Final = ("requests_per_minute", "tokens_per_minute", "max_in_flight", "tokens_per_day", "dollars_per_day")


def read_limits(top: Section) -> tuple[Limit, ...]:
    """All limits. A key has at most one, and at most one limit applies to all other keys."""
    limits: list[Limit] = []
    named: set[str] = set()
    for entry in top.sections("limits", ()):
        limit = _limit(entry)
        if limit.keys is None and any(other.keys is None for other in limits):
            raise entry.error("only one limit may omit `keys`: it applies to all keys that no other limit names")
        for key in sorted(limit.keys or ()):
            if key in named:
                raise entry.error(f"key {key!r} already has a limit", "keys")
        named |= limit.keys or frozenset()
        limits.append(limit)
    return tuple(limits)


def _limit(entry: Section) -> Limit:
    keys = entry.strings("keys", None)
    limit = Limit(
        keys=None if keys is None else frozenset(keys),
        requests_per_minute=entry.number("requests_per_minute", None, minimum=0.001, maximum=_MAX),
        tokens_per_minute=entry.number("tokens_per_minute", None, minimum=1, maximum=_MAX),
        max_in_flight=entry.integer("max_in_flight", None, minimum=1, maximum=1_000_000),
        tokens_per_day=entry.number("tokens_per_day", None, minimum=1, maximum=_MAX * 1000),
        dollars_per_day=entry.number("dollars_per_day", None, minimum=0.000001, maximum=_MAX),
    )
    entry.close()
    if not any(entry.has(key) for key in _KEYS):
        raise entry.error(f"set at least one of {', '.join(_KEYS)}")
    return limit
