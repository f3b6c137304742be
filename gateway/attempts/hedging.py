"""Two attempts at one request, the second made only if the first takes long: the first good answer wins.

Knows neither why nor whom: when to start the second, and which, is told by the caller.
"""

import asyncio
from collections.abc import Callable

from gateway.attempts.attempt import Attempt


async def open_hedged(first: Attempt, *, after_s: float, second: Callable[[], Attempt | None]) -> Attempt | None:
    """The attempt whose answer may leave, or None if none did well. `second` is asked once, `after_s` from now.

    Whoever loses is hung up on before this returns; when cancelled, all are.
    """
    running = {asyncio.create_task(first.open()): first}
    winner: Attempt | None = None
    try:
        await asyncio.wait(running, timeout=after_s)
        if not any(task.done() for task in running):
            rival = second()
            if rival is not None:
                running[asyncio.create_task(rival.open())] = rival
        while running and winner is None:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in running if task in done]:
                if winner is None:  # of two that are ready at the same moment the first is taken
                    attempt = running.pop(task)
                    winner = attempt if task.result() else None
        return winner
    finally:
        await _leave(running, lost=winner is not None)


async def _leave(running: dict[asyncio.Task[bool], Attempt], *, lost: bool) -> None:
    """Also those that were ready at the same moment, and those whose task never began to run."""
    for task, attempt in running.items():
        if lost:
            attempt.lose()
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for attempt in running.values():
        await attempt.abandon()
