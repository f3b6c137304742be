"""The `limits` of a policy file: what each key may use."""

from typing import Final

from gateway.policy_files.section import Section
from gateway.policy_types import Limit

_MOST: Final = 1e9
_WORDS: Final = ("requests_per_minute", "tokens_per_minute", "max_in_flight")


def read_limits(top: Section) -> tuple[Limit, ...]:
    """All limits; a key has one, and the keys that none names share the wording of one at most."""
    limits: list[Limit] = []
    named: set[str] = set()
    for entry in top.items("limits", ()):
        limit = _limit(entry)
        if limit.keys is None and any(other.keys is None for other in limits):
            raise entry.fault("a second limit without `keys`: the first holds for all that no other names")
        for key in sorted(limit.keys or ()):
            if key in named:
                raise entry.fault(f"key {key!r} has a limit already", "keys")
        named |= limit.keys or frozenset()
        limits.append(limit)
    return tuple(limits)


def _limit(entry: Section) -> Limit:
    keys = entry.names("keys", None)
    limit = Limit(
        keys=None if keys is None else frozenset(keys),
        requests_per_minute=entry.number("requests_per_minute", None, least=0.001, most=_MOST),
        tokens_per_minute=entry.number("tokens_per_minute", None, least=1, most=_MOST),
        max_in_flight=entry.integer("max_in_flight", None, least=1, most=1_000_000),
    )
    entry.close()
    if not any(entry.has(word) for word in _WORDS):
        raise entry.fault(f"limits nothing: give one of {', '.join(_WORDS)}")
    return limit
