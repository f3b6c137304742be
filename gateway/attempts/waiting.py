"""Waits for a slot of a full target."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from gateway.ports import Clock, StateStore, Waiter
from gateway.types import Candidate


class Queued(NamedTuple):
    """A waiter that holds a slot, how long it has waited, and whether other targets are left to wait for."""

    waiter: Waiter
    waited_ms: float
    has_others: bool


async def wait_for_slot(
    candidates: Sequence[Candidate],
    key: str | None,
    *,
    state: StateStore,
    clock: Clock,
    began_s: float,
    deadline_s: float | None,
) -> Waiter:
    """Wait until a target of one of the candidates grants a slot, for each until `max_wait_ms` after `began_s`, for all
    until the deadline. The caller closes the waiter. If this call is cancelled, the request leaves all queues at once.
    """
    woken = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    waiter = state.wait(candidates, key, wake)
    try:
        while waiter.waits_for:
            waits_ms = {name: each.target.queue.max_wait_ms for name, each in waiter.waits_for.items()}
            name = min(waits_ms, key=waits_ms.__getitem__)
            until_s = began_s + waits_ms[name] / 1000
            is_deadline = deadline_s is not None and deadline_s <= until_s
            left_s = (deadline_s if deadline_s is not None and is_deadline else until_s) - clock.now_s()
            await asyncio.wait((woken,), timeout=max(0.0, left_s))
            if woken.done() or is_deadline:
                break
            waiter.leave(name)
    except BaseException:  # a client that leaves must not keep its place
        waiter.close()
        raise
    return waiter
