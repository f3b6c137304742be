"""A worker under load: disconnects, a full queue, long prompts and a crash; one response each, and no leaks."""

import asyncio
import json
import os
import random
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.worker.serving import CHAT, MODEL, Served, events, listening, toy_model, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
TEXT = "größer 日本 🙂 " * 3


def body(*, stream: bool, text: str = TEXT, **fields: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "stream": stream,
        "max_tokens": 120,
        **fields,
    }


async def answer(served: Served, *, stream: bool, **fields: Any) -> tuple[int, str]:
    """Status, and the text of a whole response or of a complete stream."""
    response = await served.client.post(CHAT, json=body(stream=stream, **fields))
    if response.status_code != 200:
        return response.status_code, response.json()["error"]["code"]
    if not stream:
        return 200, response.json()["choices"][0]["message"]["content"]
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    deltas = [choice["delta"] for chunk in chunks for choice in json.loads(chunk)["choices"]]
    return 200, "".join(delta.get("content", "") for delta in deltas)


async def disconnect(served: Served, *, stream: bool, after_s: float) -> None:
    """Send a request and disconnect after some time."""
    asking = asyncio.create_task(answer(served, stream=stream))
    await asyncio.sleep(after_s)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def assert_idle(served: Served) -> None:
    await until(lambda: served.engine.status().running + served.engine.status().waiting == 0)
    status = served.engine.status()
    assert status.kv_bytes == 0
    assert not served.engine._streams
    assert await answer(served, stream=False) == (200, TEXT)


def counted(served: Served, name: str) -> float:
    page = served.worker.serving_state.meters.render(served.engine.status()).decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name))


async def test_disconnects_of_half_of_two_hundred_clients_leak_nothing() -> None:
    """Clients that stay get whole responses, those that disconnect cost no further work."""
    chance = random.Random(7)
    async with listening(toy_model(seconds_per_pass=0.001), max_num_seqs=16, max_waiting=200) as served:
        staying = [asyncio.create_task(answer(served, stream=bool(n % 2))) for n in range(100)]
        leaving = [disconnect(served, stream=bool(n % 2), after_s=chance.uniform(0.0, 2.0)) for n in range(100)]
        await asyncio.gather(*leaving)
        assert await asyncio.gather(*staying) == [(200, TEXT)] * 100
        await until(lambda: served.engine.status().running + served.engine.status().waiting == 0)
        finished = counted(served, "twolane_worker_tokens_per_forward_count")
        assert 100 <= finished <= 200
        # Every admitted request ended exactly once.
        await until(
            lambda: (
                counted(served, "gen_ai_server_request_duration_seconds_count")
                == counted(served, "twolane_worker_tokens_per_forward_count")
                + counted(served, "twolane_worker_cancelled_total")
            )
        )
        await assert_idle(served)


async def test_sixty_four_streams_run_concurrently() -> None:
    """Each is complete, and none is mixed with another."""
    async with listening(toy_model(), max_num_seqs=16, max_waiting=64) as served:
        texts = [f"{number} {TEXT}"[:60] for number in range(64)]
        answers = await asyncio.gather(*(answer(served, stream=True, text=text) for text in texts))
        assert answers == [(200, text) for text in texts]
        await assert_idle(served)


async def test_a_full_queue_rejects_at_once_with_retry_after() -> None:
    """Admitted requests are answered; others are rejected before the admitted ones complete."""
    net, may_continue = toy_model(), threading.Event()
    net._take_time = may_continue.wait  # type: ignore[method-assign]
    may_continue.set()
    async with listening(net, max_num_seqs=2, max_waiting=2) as served:
        await answer(served, stream=False)
        may_continue.clear()
        asked = [asyncio.create_task(served.client.post(CHAT, json=body(stream=bool(n % 2)))) for n in range(20)]
        await until(lambda: sum(each.done() for each in asked) >= 16)
        may_continue.set()
        answers = await asyncio.gather(*asked)
        refused = [each for each in answers if each.status_code == 429]
        assert {each.status_code for each in answers} == {200, 429}
        assert 3 <= len(answers) - len(refused) <= 4  # two queued, one or two in the batch
        assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
        assert all(each.json()["error"]["code"] == "overloaded" for each in refused)
        assert counted(served, 'twolane_worker_refused_total{reason="overloaded"}') == len(refused)
        await assert_idle(served)


async def test_prompts_that_are_too_long_are_rejected_beside_others() -> None:
    """Of any size, without delaying others."""
    async with listening(toy_model(), max_context=300) as served:
        sizes = [301, 5_000, 300_000] * 5
        long = [answer(served, stream=bool(n % 2), text="x" * size) for n, size in enumerate(sizes)]
        good = [answer(served, stream=bool(n % 2)) for n in range(8)]
        answers = await asyncio.gather(*long, *good)
        assert answers == [(400, "context_length_exceeded")] * len(sizes) + [(200, TEXT)] * 8
        await assert_idle(served)


async def test_a_worker_killed_under_load_leaves_no_client_waiting() -> None:
    """Every client notices at once that its response is incomplete."""
    line = [sys.executable, "-m", "diffusion_worker", "--checkpoint", "checkpoints/twolane-tiny", "--port", "0"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TWOLANE_")}
    process = await asyncio.create_subprocess_exec(
        *line, "--threads", "1", "--max-num-seqs", "16", stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=clean
    )
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().split()[2]
        assert b"is ready" in await process.stdout.readline()
        endless: dict[str, Any] = {
            "model": "diffusion",
            "diffusion": {"steps": 24, "entropy_bound": 0.0001},
            "structured_outputs": {"regex": "[a-z]{900}"},
            "max_tokens": 1000,
        }
        drafts: dict[str, Any] = {"stream_options": {"include_drafts": True}}  # so that streams have started
        began: set[int] = set()

        async def interrupted(number: int) -> str:
            stream = bool(number % 2)
            asked = body(stream=stream, **endless, **(drafts if stream else {}))
            try:
                async with client.stream("POST", CHAT, json=asked) as response:
                    async for _line in response.aiter_lines():
                        began.add(number)
            except httpx.TransportError as error:
                return type(error).__name__
            return "whole"

        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            clients = [asyncio.create_task(interrupted(number)) for number in range(24)]
            await until(lambda: len(began) >= 2, within_s=120)
            process.kill()
            async with asyncio.timeout(120):
                outcomes = await asyncio.gather(*clients)
        assert "whole" not in outcomes
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
