"""The byte budget: never exceeded by reservations, and released exactly once however a request ends."""

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twolane.process.http.bounded_bodies import BoundedBodies
from twolane.process.http.byte_budget import OWNER_SHARE, BudgetExceededError, ByteBudget, Holding, hold_more
from twolane.process.http_body import BodyTooLargeError, ClientDisconnected, read_body

OWNERS = (None, "a", "b")
STEPS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["reserve", "add", "release"]), st.integers(0, 600)), max_size=60
)


def held_by(budget: ByteBudget, owner: str | None) -> Holding:
    holding = budget.hold()
    if owner is not None:
        holding.assign(owner)
    return holding


@given(STEPS)
def test_the_budget_is_the_sum_of_what_is_held(steps: list[tuple[int, str, int]]) -> None:
    """Reservations never exceed it; additions may; releasing twice changes nothing."""
    budget = ByteBudget(1000, largest=500)
    holdings = [held_by(budget, OWNERS[at % 3]) for at in range(6)]
    held, released = [0] * 6, set[int]()
    for at, what, size in steps:
        if what == "release":
            holdings[at].release()
            held[at] = 0
            released.add(at)
        elif what == "add":
            holdings[at].add(size)
            held[at] += 0 if at in released else size
        else:
            before = budget.used
            try:
                holdings[at].reserve(size)
            except BudgetExceededError:
                assert budget.used == before
            else:
                assert budget.used == before or budget.used <= 1000
                held[at] = held[at] if at in released else max(held[at], size)
        assert budget.used == sum(held)
    for each in holdings:
        each.release()
    assert (budget.used, dict(budget._by_owner)) == (0, {})


def test_one_key_leaves_a_part_of_the_budget_to_others() -> None:
    budget = ByteBudget(1000, largest=100)
    for _ in range(7):
        held_by(budget, "greedy").reserve(100)
    with pytest.raises(BudgetExceededError):
        held_by(budget, "greedy").reserve(100)
    held_by(budget, "other").reserve(int(1000 * (1 - OWNER_SHARE)))
    with pytest.raises(BudgetExceededError):
        budget.hold().reserve(100)


def test_one_key_may_always_send_the_largest_body() -> None:
    held_by(ByteBudget(100, largest=100), "a").reserve(100)
    with pytest.raises(ValueError, match="smaller"):
        ByteBudget(99, largest=100)


class Exchange:
    """One request through the middleware, as a server drives it."""

    def __init__(self, app: Any, budget: ByteBudget, *, announced: int | None, parts: list[bytes]) -> None:
        self.sent: list[Any] = []
        self.refused: list[Exception] = []
        self.taken = 0
        headers = [] if announced is None else [(b"content-length", b"%d" % announced)]
        self._scope: Any = {"type": "http", "method": "POST", "headers": headers, "state": {}}
        self._parts = parts
        self._app = BoundedBodies(app, budget, max_body_bytes=500, refuse=self._refuse)

    async def run(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    async def _receive(self) -> Any:
        await asyncio.sleep(0)
        if self.taken == len(self._parts):
            return {"type": "http.disconnect"}
        self.taken += 1
        return {
            "type": "http.request",
            "body": self._parts[self.taken - 1],
            "more_body": self.taken < len(self._parts),
        }

    async def _send(self, message: Any) -> None:
        self.sent.append(message["type"])

    async def _refuse(self, scope: Any, send: Any, fault: Exception) -> None:
        assert scope is self._scope
        self.refused.append(fault)


async def answers(scope: Any, receive: Any, send: Any) -> None:
    await read_body(receive)
    hold_more(50)  # a buffered answer
    await asyncio.sleep(0)
    await send({"type": "http.response.start"})


async def fails(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    raise RuntimeError("x")


async def ignores_its_body(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start"})


async def hangs(scope: Any, receive: Any, send: Any) -> None:
    await read_body(receive)
    await asyncio.sleep(3600)


APPS = (answers, fails, ignores_its_body, hangs)
REQUEST = st.tuples(
    st.sampled_from(APPS),
    st.booleans(),  # announced
    st.lists(st.integers(0, 300).map(bytes), max_size=4),
    st.integers(0, 12),  # turns of the loop until it is cancelled; 12: never, unless it hangs
)


@given(st.lists(REQUEST, max_size=12))
def test_nothing_is_held_after_any_mix_of_requests(requests: list[Any]) -> None:
    """Answered, refused, failed, cut short, too large, cancelled at any moment."""

    async def run() -> None:
        budget, tasks, peak = ByteBudget(1000, largest=500), [], 0
        for app, is_announced, parts, cancel_after in requests:
            announced = sum(map(len, parts)) if is_announced else None
            exchange = Exchange(app, budget, announced=announced, parts=parts)
            tasks.append((asyncio.create_task(exchange.run()), cancel_after))
        for turn in range(13):
            await asyncio.sleep(0)
            peak = max(peak, budget.used)
            for task, cancel_after in tasks:
                if cancel_after == turn:
                    task.cancel()
        assert peak <= 1000 + 50 * len(requests)
        for task, _ in tasks:
            if not task.done():
                await asyncio.sleep(0)
                task.cancel()
        ends = await asyncio.gather(*(task for task, _ in tasks), return_exceptions=True)
        assert {type(end) for end in ends} <= {
            type(None),
            RuntimeError,
            ClientDisconnected,
            asyncio.CancelledError,
        }
        assert (budget.used, dict(budget._by_owner)) == (0, {})

    asyncio.run(run())


@pytest.mark.anyio
async def test_an_announced_excess_is_refused_before_anything_is_read() -> None:
    budget = ByteBudget(1000, largest=500)
    first = budget.hold()
    first.reserve(800)
    exchange = Exchange(answers, budget, announced=400, parts=[bytes(400)])
    await exchange.run()
    assert [type(fault) for fault in exchange.refused] == [BudgetExceededError]
    assert (exchange.taken, exchange.sent, budget.used) == (0, [], 800)
    first.release()
    again = Exchange(answers, budget, announced=400, parts=[bytes(400)])
    await again.run()
    assert (again.refused, again.sent) == ([], ["http.response.start"])


@pytest.mark.anyio
@pytest.mark.parametrize("announced", [None, 501])
async def test_a_body_beyond_its_limit_is_refused_whatever_it_announced(announced: int | None) -> None:
    exchange = Exchange(answers, ByteBudget(1000), announced=announced, parts=[bytes(300), bytes(300), bytes(300)])
    with pytest.raises(ClientDisconnected) if announced is None else contextlib.nullcontext():
        await exchange.run()
    assert [type(fault) for fault in exchange.refused] == [BodyTooLargeError]
    assert exchange.taken == (2 if announced is None else 0)
