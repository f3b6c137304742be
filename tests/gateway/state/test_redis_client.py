"""Calls of Redis end with the task that makes them."""

import asyncio
import contextlib

import pytest

from gateway.state.redis_address import read_address
from gateway.state.redis_client import RedisClient, RedisFaultError

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("fault", [None, OSError("reset")])
async def test_a_call_is_cancelled_although_the_library_swallows_the_cancellation(fault: OSError | None) -> None:
    """Whatever the library makes of it: an answer or a fault."""
    client, has_begun = RedisClient(read_address("redis://127.0.0.1:1/0"), timeout_s=3600.0), asyncio.Event()

    async def call_for_ever() -> None:
        while True:
            with contextlib.suppress(RedisFaultError):
                async with client.calling(3600.0):
                    has_begun.set()
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.Event().wait()
                    if fault is not None:
                        raise fault

    task = asyncio.create_task(call_for_ever())
    await has_begun.wait()
    task.cancel()
    await asyncio.wait([task], timeout=120)
    assert task.cancelled()
    await client.aclose()


async def test_a_call_beyond_its_time_limit_is_a_fault_and_no_cancellation() -> None:
    client = RedisClient(read_address("redis://127.0.0.1:1/0"), timeout_s=3600.0)
    with pytest.raises(RedisFaultError, match="TimeoutError"):
        async with client.calling(0.01):
            await asyncio.Event().wait()
    await client.aclose()
