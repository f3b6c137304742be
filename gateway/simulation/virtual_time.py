"""A virtual clock that advances when all tasks wait, and random numbers that depend on the request alone.

An hour of traffic takes as long as its computation, and every run is identical.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from contextvars import ContextVar
from hashlib import blake2b
from typing import Any, Final, TypeVar

Result = TypeVar("Result")
_SCALE: Final = 2.0**-32


class _TimeSkippingSelector(selectors.DefaultSelector):
    """Advances the clock instead of waiting for a timeout. No I/O: a simulation has no sockets."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("deadlock: every task waits and no timer is set")
        if timeout > 0:
            self.now_s += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop without real time. It starts at 0 s."""

    def __init__(self) -> None:
        self._selector = _TimeSkippingSelector()
        super().__init__(self._selector)

    def time(self) -> float:
        """Virtual seconds."""
        return self._selector.now_s


def run_virtual(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end in virtual time. Must not be called while an event loop is running."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class SeededRandom:
    """Random numbers keyed by seed, request and purpose, not by order: one request never changes another's numbers.

    Two policies see the same numbers on one trace, so only the policies differ (common random numbers).
    """

    def __init__(self, seed: int) -> None:
        self._key = seed.to_bytes(8, "big", signed=True)

    def pair(self, *purpose: str | int) -> tuple[float, float]:
        """Two independent numbers in [0, 1)."""
        data = "/".join(map(str, purpose)).encode()
        bits = int.from_bytes(blake2b(data, digest_size=8, key=self._key).digest(), "big")
        return (bits >> 32) * _SCALE, (bits & 0xFFFFFFFF) * _SCALE


class VirtualWorld:
    """See `ports.World`. `bind_request` sets the request whose random numbers the running task uses."""

    def __init__(self, random: SeededRandom, *, epoch_s: float) -> None:
        """`epoch_s`: the wall clock time at which the loop's clock shows 0."""
        self._random = random
        self._epoch_s = epoch_s
        self._loop = asyncio.get_running_loop()
        self._request: ContextVar[tuple[str, list[int]]] = ContextVar("asking")

    def now_s(self) -> float:
        """Virtual seconds."""
        return self._loop.time()

    def wall_s(self) -> float:
        """Virtual seconds since the epoch."""
        return self._epoch_s + self._loop.time()

    def stalled_s(self, since_s: float, now_s: float) -> float:  # noqa: ARG002 - see the protocol
        """A simulated loop does not stall."""
        return 0.0

    def bind_request(self, request_id: str) -> None:
        """From now on, this task and the tasks it starts use this request's numbers."""
        self._request.set((request_id, [0]))

    def sample(self) -> float:
        """The request's next number."""
        request_id, count = self._request.get()
        count[0] += 1
        return self._random.pair("world", request_id, count[0])[0]
