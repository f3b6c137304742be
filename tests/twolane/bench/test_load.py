"""An open-loop load against real servers that stand still, refuse, cut off and hang up."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from twolane.bench.figures import figures
from twolane.bench.load import Manner, Sample, run
from twolane.bench.plan import Call, Prompt, constant, in_turn

pytestmark = pytest.mark.anyio
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
WHOLE = {"choices": [{"message": {"role": "assistant", "content": "good"}}], "usage": {"completion_tokens": 2}}


async def load(handler: Handler, calls: tuple[Call, ...], **manner: object) -> list[Sample]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    samples: list[Sample] = []
    try:
        await run(calls, Manner(url=f"http://{host}:{port}", **manner), heard=samples.append)  # type: ignore[arg-type]
    finally:
        await runner.cleanup()
    return samples


def calls(rate: float, seconds: float) -> tuple[Call, ...]:
    return in_turn(constant(rate, seconds), [Prompt(body={"messages": []})], seed=0)


async def stream_of(request: web.Request, *events: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream", "x-twolane-target": "fast"})
    await response.prepare(request)
    for event in events:
        await response.write(f"data: {event}\n\n".encode())
    return response


def chunk(text: str) -> str:
    return json.dumps({"choices": [{"delta": {"content": text}}]})


async def test_who_would_have_come_while_a_server_stood_still_counts_its_wait() -> None:
    """A closed loop would have sent one request into the pause and hidden it from all percentiles but the last."""
    pause_s = iter([0.5])

    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(next(pause_s, 0.0))
        return web.json_response(WHOLE)

    samples = await load(answer, calls(100, 0.6), most_in_flight=1)
    found = figures(samples)
    assert found.answered == 60
    assert found.latency.percentiles_ms[50.0] > 150  # half of them were due while it stood still
    assert found.late > 20


async def test_calls_leave_when_they_are_due_whatever_becomes_of_others() -> None:
    under_way, most = 0, 0

    async def slow(_: web.Request) -> web.StreamResponse:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.2)
        under_way -= 1
        return web.json_response(WHOLE)

    samples = await load(slow, calls(100, 0.3))
    assert len(samples) == 30
    assert most >= 10  # a closed loop would have had one
    assert all(sample.outcome == "ok" and sample.text == "good" and sample.tokens == 2 for sample in samples)


async def test_a_stream_tells_its_first_text_and_its_lane() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        assert (await request.json())["stream"] is True
        return await stream_of(request, chunk(""), chunk("go"), chunk("od"), '{"choices": [], "usage": null}', "[DONE]")

    (sample,) = await load(answer, calls(1, 1), stream=True)
    assert (sample.outcome, sample.text, sample.told["target"]) == ("ok", "good", "fast")
    assert sample.first_token_s is not None
    assert 0.0 < sample.first_token_s <= sample.latency_s


async def test_a_stream_without_an_end_and_one_with_an_error_are_no_answers() -> None:
    events = iter([[chunk("half")], [chunk("half"), '{"error": {"code": "deadline_exceeded"}}']])

    async def answer(request: web.Request) -> web.StreamResponse:
        return await stream_of(request, *next(events))

    samples = await load(answer, calls(2, 1), stream=True)
    assert sorted(sample.outcome for sample in samples) == ["cut_off", "deadline_exceeded"]


@pytest.mark.parametrize(
    ("body", "status", "outcome"),
    [
        ('{"error": {"code": "overloaded"}}', 429, "overloaded"),
        ('{"error": {"code": null, "type": "server_error"}}', 500, "server_error"),
        ("<html>", 502, "http_502"),
        ("[]", 503, "http_503"),
        ('{"choices": []}', 200, "not_understood"),
    ],
)
async def test_what_is_no_answer_has_its_reason(body: str, status: int, outcome: str) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text=body, status=status, content_type="application/json")

    (sample,) = await load(answer, calls(1, 1))
    assert sample.outcome == outcome


async def test_who_waits_too_long_gives_up() -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.json_response(WHOLE)

    (sample,) = await load(answer, calls(1, 1), timeout_s=0.1)
    assert sample.outcome == "timed_out"


async def test_nobody_there_is_told() -> None:
    samples: list[Sample] = []
    await run(calls(2, 1), Manner(url="http://127.0.0.1:9"), heard=samples.append)
    assert [sample.outcome for sample in samples] == ["no_connection"] * 2
