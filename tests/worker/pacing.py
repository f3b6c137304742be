"""Ties the passes of a toy model to the test that watches them. A model that is only slow may still have finished when
the test looks, on a busy machine."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Final

from diffusion_worker.models.toy import ToyModel

LIMIT_S: Final = 120.0  # a failing test ends


@contextlib.contextmanager
def held(model: ToyModel, *, after: int = 0) -> Iterator[threading.Event]:
    """Within it, the model computes `after` more passes; the next one waits until the end of the block. The event tells
    that it has begun."""
    begun, released, last, take_time = threading.Event(), threading.Event(), model.passes + after, model._take_time

    def take_time_held() -> None:
        take_time()
        if model.passes > last:
            begun.set()
            released.wait(LIMIT_S)

    model._take_time = take_time_held  # type: ignore[method-assign]
    try:
        yield begun
    finally:
        model._take_time = take_time  # type: ignore[method-assign]
        released.set()


def in_step(model: ToyModel) -> ToyModel:
    """Let each pass wait for a turn of the running event loop: nothing is computed while the loop does not run, and
    what takes it a few turns happens within as many passes."""
    events, take_time = asyncio.get_running_loop(), model._take_time

    def take_time_in_step() -> None:
        take_time()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), events).result(LIMIT_S)

    model._take_time = take_time_in_step  # type: ignore[method-assign]
    return model
