"""Network faults between gateway and worker: every request gets exactly one response, with the correct reason."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.gateway.serving import (
    STOP,
    RealGateway,
    chunk,
    fake_server,
    last_decision,
    real_gateway,
    start_stream,
    until,
)
from tests.worker.serving import listening, toy_model
from twolane.fault_proxy.control import Fault, Mode
from twolane.fault_proxy.proxy import FaultProxy

pytestmark = pytest.mark.anyio

POLICY = """
version: 1
targets:
  fast: {kind: worker, url: "%s", model: diffusion, location: in_cluster}
  quality: {kind: openai, engine: openai, url: "%s", model: m, location: external}
routes:
  - {name: constrained, when: {task: structured}, use: fast, validate: {schema: request}, fall_back: [quality]}
  - {name: default, use: fast, fall_back: [quality]}
"""
ORDER = {
    "type": "json_schema",
    "json_schema": {"name": "order", "schema": {"type": "object", "required": ["n"], "additionalProperties": False,
                                                "properties": {"n": {"type": "integer"}}}},
}  # fmt: skip
TEXT = '{"n": 1}'
# The expected attempts of a request for JSON, by fault.
EXPECTED = {
    Mode.NONE: "fast=ok",
    Mode.CORRUPT: "fast=invalid_output,quality=ok",
    Mode.TRUNCATE: "fast=upstream_error,quality=ok",
    Mode.RESET: "fast=upstream_error,quality=ok",
    Mode.TOO_MANY: "fast=overloaded,quality=ok",
    Mode.BROKEN: "fast=upstream_error,quality=ok",
    Mode.DELAY: "fast=ok",
    Mode.DRIP: "fast=ok",
}


@pytest.fixture
async def environment(tmp_path: Any) -> AsyncIterator[tuple[RealGateway, FaultProxy, Any]]:
    """A gateway, a fault proxy, a worker that echoes the prompt, and a fallback server with correct responses."""

    async def correct(request: Any, body: dict[str, Any]) -> Any:
        if not body.get("stream"):
            message = {"role": "assistant", "content": TEXT}
            answer = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            return web.json_response(answer)
        stream = await start_stream(request)
        await stream.write(chunk(TEXT) + STOP + b"data: [DONE]\n\n")
        return stream

    async with (
        listening(toy_model()) as worker,
        fake_server(correct) as quality,
        FaultProxy(str(worker.client.base_url).rstrip("/")) as proxy,
        real_gateway(tmp_path, POLICY % (proxy.url, quality.url)) as gateway,
    ):
        yield gateway, proxy, worker


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mode", EXPECTED)
async def test_json_is_valid_under_every_fault(environment: Any, mode: Mode, stream: bool) -> None:
    gateway, proxy, _ = environment
    proxy.fault = Fault(mode=mode, seconds=0.002)
    for _ in range(2):
        status, headers, body = await gateway.ask(ask(stream=stream, response_format=ORDER))
        assert status == 200
        assert headers["x-twolane-attempts"] == EXPECTED[mode]
        assert headers["x-twolane-schema"] == "valid"
        assert text_of(body, stream) == TEXT


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mode", EXPECTED)
async def test_plain_requests_end_once_with_the_correct_outcome(environment: Any, mode: Mode, stream: bool) -> None:
    """A failure after the first byte of an unvalidated stream ends it with an error event, never with [DONE]."""
    gateway, proxy, _ = environment
    proxy.fault = Fault(mode=mode, seconds=0.002)
    status, headers, body = await gateway.ask(ask(stream=stream))
    assert status == 200
    decision = await last_decision(gateway, headers)
    if stream and b"[DONE]" not in body:
        assert mode is Mode.TRUNCATE
        assert orjson.loads(body.rpartition(b"data: ")[2])["error"]["code"] == "upstream_error"
        assert (decision["outcome"], decision["attempts"][-1]["outcome"]) == ("error", "upstream_error")
    else:
        assert decision["outcome"] == "ok"
        assert decision["attempts"][-1]["outcome"] == "ok"
        assert headers["x-twolane-target"] == decision["target"]


@pytest.mark.slow
async def test_concurrent_requests_under_changing_faults_get_one_response_each(environment: Any) -> None:
    gateway, proxy, worker = environment
    waiting = []
    for number, mode in enumerate([*EXPECTED, *EXPECTED, *EXPECTED]):
        proxy.fault = Fault(mode=mode, seconds=0.002, share=0.5)
        waiting += [
            asyncio.create_task(gateway.ask(ask(stream=bool(each % 2), response_format=ORDER))) for each in range(3)
        ]
        if number % 3 == 0:
            await asyncio.sleep(0.01)
    answers = await asyncio.gather(*waiting)
    assert {status for status, _, _ in answers} == {200}
    assert [text_of(body, isinstance(body, bytes)) for _, _, body in answers] == [TEXT] * len(answers)
    async with asyncio.timeout(120):
        while await requests_counted(gateway) < len(answers):  # noqa: ASYNC110 - counted after the response
            await asyncio.sleep(0.01)
    assert await requests_counted(gateway) == len(answers)
    await until_idle(gateway, worker)


async def test_a_deadline_ends_a_slowly_sent_response(environment: Any) -> None:
    gateway, proxy, _ = environment
    proxy.fault = Fault(mode=Mode.DRIP, seconds=0.5)
    status, headers, body = await gateway.ask(ask(response_format=ORDER), x_twolane_deadline_ms="300")
    assert (status, body["error"]["code"]) == (504, "deadline_exceeded")
    assert headers["x-twolane-attempts"] == "fast=deadline,quality=deadline"


HEDGED = """
version: 1
targets:
  fast: {kind: worker, url: "%s", model: diffusion, location: in_cluster}
  quality: {kind: openai, engine: openai, url: "%s", model: m, location: external}
routes:
  - name: default
    use: fast
    validate: {schema: request}
    hedge: {after_ms: %d, max_share: 0.5}
    fall_back: [quality]
"""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mode", [Mode.DELAY, Mode.DRIP])
async def test_a_slow_response_is_hedged_and_cancelled(environment: Any, mode: Mode, stream: bool) -> None:
    gateway, proxy, worker = environment
    quality = gateway.gateway.policies.current.targets["quality"].url
    await put_policy(gateway, HEDGED % (proxy.url, quality, 60_000))
    for _ in range(2):  # two requests earn one hedge, and are not slow enough to use it
        await gateway.ask(ask(stream=stream, response_format=ORDER))
    await put_policy(gateway, HEDGED % (proxy.url, quality, 100))
    proxy.fault = Fault(mode=mode, seconds=20.0)
    status, headers, body = await gateway.ask(ask(stream=stream, response_format=ORDER))
    assert (status, headers["x-twolane-attempts"]) == (200, "fast=hedge,quality=ok")
    assert headers["x-twolane-fallback"] == "hedge"
    assert text_of(body, stream) == TEXT
    await until(gateway.metrics, 'twolane_hedges_total{result="won",route="default"} 1.0')
    await until_idle(gateway, worker)


async def requests_counted(gateway: RealGateway) -> float:
    counted = [line for line in (await gateway.metrics()).splitlines() if line.startswith("twolane_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in counted)


async def until_idle(gateway: RealGateway, worker: Any) -> None:
    """Wait until neither gateway nor worker has requests in flight."""
    await until(gateway.metrics, 'twolane_in_flight{target="fast"} 0.0')
    async with asyncio.timeout(120):
        while worker.engine.status().running + worker.engine.status().waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def put_policy(gateway: RealGateway, text: str) -> None:
    gateway.gateway.policies.path.write_text(text)
    await gateway.gateway.watcher.reload()


def ask(**more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 20, **more}


def text_of(body: Any, stream: bool) -> str:
    if not stream:
        return str(body["choices"][0]["message"]["content"])
    assert body.endswith(b"data: [DONE]\n\n")
    events = [orjson.loads(event.removeprefix(b"data: ")) for event in body.split(b"\n\n")[:-2]]
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
