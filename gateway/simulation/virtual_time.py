"""Time that passes only when everybody waits, and chance that depends on the request alone.

Knows neither pipeline nor trace. An hour of traffic takes as long as its computing, and every run is the same.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from contextvars import ContextVar
from hashlib import blake2b
from typing import Any, Final, TypeVar

Result = TypeVar("Result")
_SCALE: Final = 2.0**-32


class _Leap(selectors.DefaultSelector):
    """Instead of waiting for a time-out, jumps to it. Nobody outside is heard: a simulation has no sockets."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing will ever happen")
        if timeout > 0:
            self.now_s += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop without real time. It begins at 0 s."""

    def __init__(self) -> None:
        self._leap = _Leap()
        super().__init__(self._leap)

    def time(self) -> float:
        """Virtual seconds."""
        return self._leap.now_s


def run_virtual(story: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end in virtual time. Must not be called where an event loop runs already."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story)


class Luck:
    """Chance by seed, request and purpose, not by order: what one request draws moves no other's.

    So two policies meet the same luck on one trace, and their difference is theirs (common random numbers).
    """

    def __init__(self, seed: int) -> None:
        self._key = seed.to_bytes(8, "big", signed=True)

    def pair(self, *purpose: str | int) -> tuple[float, float]:
        """Two independent numbers in [0, 1)."""
        told = "/".join(map(str, purpose)).encode()
        drawn = int.from_bytes(blake2b(told, digest_size=8, key=self._key).digest(), "big")
        return (drawn >> 32) * _SCALE, (drawn & 0xFFFFFFFF) * _SCALE


class VirtualWorld:
    """See `ports.World`. `asks` says for which request the running task draws."""

    def __init__(self, luck: Luck, *, epoch_s: float) -> None:
        """`epoch_s`: what people's clocks show when the loop's shows 0."""
        self._luck = luck
        self._epoch_s = epoch_s
        self._loop = asyncio.get_running_loop()
        self._asking: ContextVar[tuple[str, list[int]]] = ContextVar("asking")

    def now_s(self) -> float:
        """Virtual seconds."""
        return self._loop.time()

    def wall_s(self) -> float:
        """Virtual seconds since the epoch."""
        return self._epoch_s + self._loop.time()

    def asks(self, request_id: str) -> None:
        """From here on this task, and those it starts, draw for this request."""
        self._asking.set((request_id, [0]))

    def sample(self) -> float:
        """The request's next number."""
        request_id, drawn = self._asking.get()
        drawn[0] += 1
        return self._luck.pair("world", request_id, drawn[0])[0]
