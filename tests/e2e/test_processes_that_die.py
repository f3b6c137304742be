"""An upstream process is killed or stopped under load: every request gets one response with the correct reason."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.gateway.serving import fake_server, real_gateway
from twolane.process.flags import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

POLICY = """
version: 1
targets:
  fast: {{kind: openai, engine: openai, url: "http://127.0.0.1:{port}", model: m, location: in_cluster, retry: {{}}}}
  quality: {{kind: openai, engine: openai, url: "{quality}", model: m, location: external}}
routes:
  - name: default
    use: fast
    fall_back: quality
    deadline_ms: 120000
    {more}
"""


@contextlib.asynccontextmanager
async def upstream(port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A server in a separate process that responds immediately."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.gateway", "--upstream", str(port), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(120):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.05)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.wait()


async def ask_many(gateway: Any, count: int, **more: Any) -> list[tuple[int, str]]:
    """Send `count` requests, a few at a time; return their status and attempts."""
    gate = asyncio.Semaphore(8)

    async def one() -> tuple[int, str]:
        async with gate:
            body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], **more}
            status, headers, _ = await gateway.ask(body)
            return status, headers["x-twolane-attempts"]

    return await asyncio.gather(*(one() for _ in range(count)))


async def until_well(gateway: Any) -> None:
    """Wait until the upstream responds in time, which it may not always do on a busy machine."""
    async with asyncio.timeout(120):
        while await ask_many(gateway, 1) != [(200, "fast=ok")]:
            pass


@pytest.mark.parametrize("stream", [False, True])
async def test_a_killed_upstream_loses_no_request_and_gets_few_attempts(tmp_path: Any, stream: bool) -> None:
    port = free_port()
    async with (
        upstream(port) as process,
        fake_server() as quality,
        real_gateway(tmp_path, POLICY.format(port=port, quality=quality.url, more="")) as gateway,
    ):
        assert set(await ask_many(gateway, 20, stream=stream)) == {(200, "fast=ok")}
        process.kill()
        await process.wait()
        told = await ask_many(gateway, 100, stream=stream)
    assert {status for status, _ in told} == {200}
    # Interrupted and refused connections, their retries, and then the breaker.
    assert {attempts for _, attempts in told} <= {
        "fast=upstream_error,quality=ok",
        "fast=upstream_error,fast=upstream_error,quality=ok",
        "fast=upstream_error,fast=circuit_open,quality=ok",
        "fast=circuit_open,quality=ok",
    }
    assert sum(attempts.count("fast=upstream_error") for _, attempts in told) <= 30
    assert len(quality.bodies) == 100


@pytest.mark.parametrize(
    ("more", "outcome"),
    [
        ("attempt_ms: 400", "fast=deadline,quality=ok"),
        # The hedge's delay does not count what the gateway itself delays; on a busy machine that is long.
        ("attempt_ms: 3000\n    hedge: {after_ms: 100, max_share: 0.5}", "fast=hedge"),
    ],
)
async def test_a_stopped_upstream_is_ended_by_its_timeout(tmp_path: Any, more: str, outcome: str) -> None:
    """It accepts connections without responding, like a process that hangs: only a timeout detects that."""
    port = free_port()
    async with (
        upstream(port) as process,
        fake_server() as quality,
        real_gateway(tmp_path, POLICY.format(port=port, quality=quality.url, more=more)) as gateway,
    ):
        assert {status for status, _ in await ask_many(gateway, 20)} == {200}
        await until_well(gateway)
        os.kill(process.pid, signal.SIGSTOP)
        told = await ask_many(gateway, 8)
        os.kill(process.pid, signal.SIGCONT)
        await until_well(gateway)
    assert {status for status, _ in told} == {200}
    assert all(attempts.endswith("quality=ok") for _, attempts in told)
    assert any(attempts.startswith(outcome) for _, attempts in told)
