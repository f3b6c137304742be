"""The end of a drain ends every request with a response."""

import asyncio

import pytest

from twolane.process.running_requests import RunningRequests

pytestmark = pytest.mark.anyio


async def test_ending_twice_does_not_cancel_a_response_that_is_being_written() -> None:
    """As a third ctrl-C does, or the end of the drain period after a second one."""
    running, is_writing, may_end = RunningRequests(), asyncio.Event(), asyncio.Event()

    async def request() -> str:
        with running:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                assert running.is_over()
                is_writing.set()
                await may_end.wait()
                return "a response"
        raise AssertionError("nothing ends it but a cancellation")

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    running.end()
    await is_writing.wait()
    running.end()
    await asyncio.sleep(0)
    may_end.set()
    assert await task == "a response"
