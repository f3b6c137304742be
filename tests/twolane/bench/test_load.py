"""An open-loop load against real servers that stall, refuse requests and close connections."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from twolane.bench.figures import figures
from twolane.bench.load import LoadOptions, Sample, run
from twolane.bench.plan import Call, Prompt, constant, schedule

pytestmark = pytest.mark.anyio
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
WHOLE = {"choices": [{"message": {"role": "assistant", "content": "good"}}], "usage": {"completion_tokens": 2}}


async def load(handler: Handler, calls: tuple[Call, ...], **options: object) -> list[Sample]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    samples: list[Sample] = []
    try:
        await run(calls, LoadOptions(url=f"http://{host}:{port}", **options), on_result=samples.append)  # type: ignore[arg-type]
    finally:
        await runner.cleanup()
    return samples


def calls(rate: float, seconds: float) -> tuple[Call, ...]:
    return schedule(constant(rate, seconds), [Prompt(body={"messages": []})], seed=0)


async def stream_of(request: web.Request, *events: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream", "x-twolane-target": "fast"})
    await response.prepare(request)
    for event in events:
        await response.write(f"data: {event}\n\n".encode())
    return response


def chunk(text: str) -> str:
    return json.dumps({"choices": [{"delta": {"content": text}}]})


async def test_requests_due_during_a_stall_count_their_wait() -> None:
    """A closed loop would send a single request during the stall, which only the maximum would show."""
    pause_s = iter([0.5])

    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(next(pause_s, 0.0))
        return web.json_response(WHOLE)

    samples = await load(answer, calls(100, 0.6), max_in_flight=1)
    found = figures(samples)
    assert found.answered == 60
    assert found.latency.percentiles_ms[50.0] > 150  # half of them were due during the stall
    assert found.late > 20


async def test_calls_are_sent_on_time_regardless_of_others() -> None:
    in_flight, most = 0, 0

    async def slow(_: web.Request) -> web.StreamResponse:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.2)
        in_flight -= 1
        return web.json_response(WHOLE)

    samples = await load(slow, calls(100, 0.3))
    assert len(samples) == 30
    assert most >= 10  # a closed loop would have one
    assert all(sample.outcome == "ok" and sample.text == "good" and sample.tokens == 2 for sample in samples)


async def test_a_stream_reports_its_first_text_and_its_lane() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        assert (await request.json())["stream"] is True
        return await stream_of(request, chunk(""), chunk("go"), chunk("od"), '{"choices": [], "usage": null}', "[DONE]")

    (sample,) = await load(answer, calls(1, 1), stream=True)
    assert (sample.outcome, sample.text, sample.headers["target"]) == ("ok", "good", "fast")
    assert sample.first_token_s is not None
    assert 0.0 < sample.first_token_s <= sample.latency_s


async def test_a_stream_without_an_end_or_with_an_error_fails() -> None:
    events = iter([[chunk("half")], [chunk("half"), '{"error": {"code": "deadline_exceeded"}}']])

    async def answer(request: web.Request) -> web.StreamResponse:
        return await stream_of(request, *next(events))

    samples = await load(answer, calls(2, 1), stream=True)
    assert sorted(sample.outcome for sample in samples) == ["connection_closed", "deadline_exceeded"]


@pytest.mark.parametrize(
    ("body", "status", "outcome"),
    [
        ('{"error": {"code": "overloaded"}}', 429, "overloaded"),
        ('{"error": {"code": null, "type": "server_error"}}', 500, "server_error"),
        ("<html>", 502, "http_502"),
        ("[]", 503, "http_503"),
        ('{"choices": []}', 200, "invalid_response"),
    ],
)
async def test_a_failed_request_has_its_reason(body: str, status: int, outcome: str) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text=body, status=status, content_type="application/json")

    (sample,) = await load(answer, calls(1, 1))
    assert sample.outcome == outcome


async def test_a_slow_request_times_out() -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.json_response(WHOLE)

    (sample,) = await load(answer, calls(1, 1), timeout_s=0.1)
    assert sample.outcome == "timed_out"


async def test_a_refused_connection_is_reported() -> None:
    samples: list[Sample] = []
    await run(calls(2, 1), LoadOptions(url="http://127.0.0.1:9"), on_result=samples.append)
    assert [sample.outcome for sample in samples] == ["no_connection"] * 2
