"""Targets that asked not to be called for a while (`Retry-After`, RFC 9110, section 10.2.3). Pure: times are given."""

from collections.abc import Iterable
from typing import NamedTuple

from gateway.reliability.replication import HoldSnapshot


class _Hold(NamedTuple):
    until_s: float
    is_quota: bool


class Holds:
    """Until when each target must not be called. The latest time wins, so receiving a hold twice is harmless."""

    def __init__(self) -> None:
        self.any: dict[str, _Hold] = {}  # also those that are over

    def hold(self, target: str, until_s: float, *, is_quota: bool) -> None:
        """Do not call the target before `until_s`. `is_quota`: its provider's rate limit is the cause."""
        known = self.any.get(target)
        if known is None or until_s > known.until_s:
            self.any[target] = _Hold(until_s, is_quota)

    def left(self, target: str, now_s: float) -> tuple[float, bool]:
        """The seconds until the target may be called, 0 if it may be now; and whether a rate limit is the cause."""
        hold = self.any.get(target)
        if hold is None or hold.until_s <= now_s:
            return 0.0, False
        return hold.until_s - now_s, hold.is_quota

    def snapshot(self, now_s: float) -> tuple[tuple[str, HoldSnapshot], ...]:
        """The holds to send to other replicas; those that are over are forgotten."""
        self.any = {target: hold for target, hold in self.any.items() if hold.until_s > now_s}
        return tuple(
            (target, HoldSnapshot(left_s=hold.until_s - now_s, is_quota=hold.is_quota))
            for target, hold in self.any.items()
        )

    def merge(self, holds: Iterable[tuple[str, HoldSnapshot]], written_s: float) -> None:
        """Adopt another replica's holds; `written_s` is when they were sent, by this process's clock."""
        for target, hold in holds:
            self.hold(target, written_s + hold.left_s, is_quota=hold.is_quota)
