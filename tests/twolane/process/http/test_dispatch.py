"""Exact paths go to their application, and everything else to one that is made once, when it is needed."""

import asyncio
import threading
from typing import Any

import pytest

from twolane.process.http.dispatch import Dispatch

pytestmark = pytest.mark.anyio


class App:
    """Records the methods that it was called with."""

    def __init__(self) -> None:
        self.methods: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.methods.append(scope["method"])


async def request(app: Any, path: str, method: str = "GET") -> None:
    await app({"type": "http", "path": path, "method": method}, None, None)


async def test_an_exact_path_does_not_make_the_other_application() -> None:
    exact, made = App(), list[App]()
    app = Dispatch({"/a": exact}, lambda: made.append(App()) or made[0])
    await request(app, "/a", "POST")
    assert (exact.methods, made) == (["POST"], [])
    await request(app, "/b")
    await request(app, "/b", "HEAD")
    assert [each.methods for each in made] == [["GET", "GET"]]


async def test_requests_that_arrive_meanwhile_wait_for_the_same_application() -> None:
    exact, other, may_go, count = App(), App(), threading.Event(), 0

    def make() -> App:
        nonlocal count
        count += 1
        assert may_go.wait(60)
        return other

    app = Dispatch({"/a": exact}, make)
    waiting = [asyncio.create_task(request(app, "/b")) for _ in range(3)]
    await asyncio.sleep(0)
    await request(app, "/a")  # is not held up
    waiting[0].cancel()
    may_go.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert (count, other.methods, exact.methods) == (1, ["GET", "GET"], ["GET"])


async def test_an_application_that_could_not_be_made_is_tried_again() -> None:
    other, faults = App(), [RuntimeError("x")]

    def make() -> App:
        if faults:
            raise faults.pop()
        return other

    app = Dispatch({}, make)
    with pytest.raises(RuntimeError, match="x"):
        await request(app, "/b")
    await request(app, "/b")
    assert other.methods == ["GET"]
