"""The end of a worker's drain: every request in progress gets a response, and no stream is cut."""

import asyncio
import os
import signal
import socket
from typing import Any

import httpx
import pytest

from diffusion_worker import app
from diffusion_worker.app import run_worker
from diffusion_worker.constraint_service.service import ConstraintService
from diffusion_worker.types.status import Residency
from tests.worker.pacing import in_step
from tests.worker.serving import CHAT, MODEL, build, toy_model

pytestmark = pytest.mark.anyio
SLOW = {"answer": "x" * 2000, "seconds_per_pass": 0.02, "max_context": 4000}


def body(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1900, **more}


@pytest.mark.parametrize(
    ("drain_s", "signals"),
    [(0.1, [signal.SIGTERM]), (300.0, [signal.SIGINT, signal.SIGINT])],
    ids=["at the end of the drain period", "at a second ctrl-C"],
)
async def test_requests_that_outlast_the_drain_period_get_a_response(
    drain_s: float, signals: list[signal.Signals], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole answer, a stream that has begun, a body that never ends, and a constraint that is being compiled."""

    async def compile_for_ever(*_: Any, **_more: Any) -> Any:
        await asyncio.sleep(300)

    monkeypatch.setattr(ConstraintService, "bind", compile_for_ever)
    worker = build(in_step(toy_model(**SLOW)), drain_s=drain_s)
    listener = socket.create_server(("127.0.0.1", 0))
    running = asyncio.create_task(run_worker(worker, listener))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        while worker.serving_state.tokenization is None:  # noqa: ASYNC110 - set by the thread that loads
            await asyncio.sleep(0.01)
        await worker.serving_state.engine.ready()
        asked = [
            asyncio.create_task(client.post(CHAT, json=body())),
            asyncio.create_task(client.post(CHAT, json=body(response_format={"type": "json_object"}))),
        ]
        async with asyncio.timeout(120), client.stream("POST", CHAT, json=body(stream=True)) as stream:
            lines = stream.aiter_lines()
            first = await anext(lines)
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: worker\r\ncontent-length: 100\r\n\r\nhalf".encode())
            while len(worker.serving_state.running.tasks) < 4:  # noqa: ASYNC110 - all of them have arrived
                await asyncio.sleep(0.01)
            for number in signals:
                os.kill(os.getpid(), number)
                # Two signals at once are one.
                while worker.serving_state.engine.status().state is not Residency.DRAINING:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            events = [line async for line in lines if line.startswith("data: ")]
            whole = await asyncio.gather(*asked)
            half = await reader.readuntil(b'"draining"')
            writer.close()
        await asyncio.wait_for(running, 60)
    assert first.startswith("data: ")
    assert half.startswith(b"HTTP/1.1 503 ")
    assert '"code":"draining"' in events[-1]
    for answer in whole:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
        assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("1", "true")


async def test_a_worker_announces_its_address_once_it_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    listener, opening_line, reached = socket.socket(), app._opening_line, asyncio.Event()
    listener.bind(("127.0.0.1", 0))

    def reach(*named: Any) -> str:
        socket.create_connection(listener.getsockname(), timeout=60).close()
        reached.set()
        return opening_line(*named)

    monkeypatch.setattr(app, "_opening_line", reach)
    running = asyncio.create_task(run_worker(build(in_step(toy_model(**SLOW))), listener))
    waiting = asyncio.create_task(reached.wait())
    await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
    if reached.is_set():  # otherwise nothing would catch the signal
        os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 60)
    assert reached.is_set()
