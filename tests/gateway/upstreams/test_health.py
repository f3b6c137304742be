"""Health polling of workers."""

import asyncio
import contextlib
import socket
from dataclasses import replace
from typing import Any

import aiohttp
import orjson
import pytest

from gateway.enums import Capability, Grade, Residency
from gateway.errors import NotResident, Overloaded
from gateway.routing.engine_profiles import capabilities_of
from gateway.types import Status
from gateway.upstreams.health import WORKER_FIELDS, HealthPoller, read_models
from gateway.upstreams.http_client.aiohttp_client import open_session
from twolane.process.flags import free_port

pytestmark = pytest.mark.anyio


READY = {"state": "ready", "predicted_wait_ms": 42}
MODELS = {
    "data": [
        {
            "id": "tiny",
            "twolane": {
                "aliases": ["diffusion"],
                "capabilities": {
                    "chat": True,
                    "seed": True,
                    "tools": "none",
                    "n": False,
                    "json_schema": "best_effort",
                    "prediction": "warm_start",
                    "telepathy": True,
                },
            },
        },
        {"id": "plain"},
    ]
}


async def test_a_worker_is_known_after_one_poll(fake: Any) -> None:
    async with fake(health=READY, models=MODELS) as server, _session() as session:
        poller = HealthPoller(server.url, session, on_return=_nothing, timeout_s=60)
        assert poller.status_of("tiny") == Status()
        assert await poller.poll(models=True)
    status = poller.status_of("diffusion")
    assert (status.residency, status.predicted_wait_ms) == (Residency.READY, 42)
    assert status.capabilities is not None
    assert Capability.SEED in status.capabilities.supported
    assert poller.status_of("plain").capabilities is None


def test_capabilities_are_read_with_their_grades_and_unknown_ones_ignored() -> None:
    words = frozenset({Capability.CHAT, Capability.SEED, Capability.JSON_SCHEMA, Capability.PREDICTION})
    expected = capabilities_of(words, json_schema=Grade.BEST_EFFORT, tools=Grade.NONE)
    expected = replace(expected, fields=WORKER_FIELDS)
    assert read_models(orjson.dumps(MODELS)) == {"tiny": expected, "diffusion": expected}


@pytest.mark.parametrize("state", ["cold", "loading", "degraded", "evicting", "draining"])
async def test_a_worker_that_is_not_ready_says_so_with_503(fake: Any, state: str) -> None:
    async with fake(health={"state": state}, models=MODELS) as server, _session() as session:
        poller = HealthPoller(server.url, session, on_return=_nothing, timeout_s=60)
        await poller.poll(models=True)
    assert poller.status_of("tiny").residency == state


async def test_a_dead_worker_is_unreachable_and_its_return_is_notified_once(fake: Any) -> None:
    returns: list[str] = []
    async with _session() as session:
        port = free_port()
        async with fake(health=READY, models=MODELS, port=port) as server:
            poller = HealthPoller(server.url, session, on_return=lambda: returns.append("back"), timeout_s=60)
            await poller.poll(models=True)
        assert not await poller.poll(models=False)
        assert poller.status_of("tiny").residency is Residency.UNREACHABLE
        assert returns == []
        async with fake(health=READY, models=MODELS, port=port):
            await poller.poll(models=False)
            await poller.poll(models=False)
    assert returns == ["back"]
    assert poller.status_of("tiny").residency is Residency.READY


async def test_a_hanging_worker_is_unreachable_after_two_timeouts() -> None:
    """Accepts connections but never responds, like a stopped process."""
    with socket.create_server(("127.0.0.1", 0)) as hung:
        async with _session() as session:
            poller = HealthPoller(
                f"http://127.0.0.1:{hung.getsockname()[1]}", session, on_return=_nothing, timeout_s=0.02
            )
            await poller.poll(models=False)
            assert poller.status_of("m").residency is Residency.UNKNOWN
            await poller.poll(models=False)
            assert poller.status_of("m").residency is Residency.UNREACHABLE


@pytest.mark.parametrize("models", [{"data": 5}, {"data": [5]}, {"data": [{"twolane": {"capabilities": 5}}]}, []])
async def test_an_invalid_model_list_leaves_capabilities_unknown(fake: Any, models: Any) -> None:
    async with fake(health=READY, models=models) as server, _session() as session:
        poller = HealthPoller(server.url, session, on_return=_nothing, timeout_s=60)
        await poller.poll(models=True)
    assert poller.status_of("tiny").capabilities is None


async def test_every_response_updates_the_predicted_wait() -> None:
    async with _session() as session:
        poller = HealthPoller("http://127.0.0.1:1", session, on_return=_nothing, timeout_s=60)
        poller.record_response({"x-twolane-worker-predicted-wait-ms": "17"})
        assert poller.status_of("m") == Status(residency=Residency.READY, predicted_wait_ms=17)
        poller.record_response({"x-twolane-worker-predicted-wait-ms": "null"})
        assert poller.status_of("m").predicted_wait_ms is None


async def test_not_resident_marks_a_worker_cold_at_once_and_overload_does_not() -> None:
    async with _session() as session:
        poller = HealthPoller("http://127.0.0.1:1", session, on_return=_nothing, timeout_s=60)
        poller.record_failure(Overloaded("full"))
        assert poller.status_of("m").residency is Residency.UNKNOWN
        poller.record_failure(NotResident("cold"))
        assert poller.status_of("m").residency is Residency.COLD


async def test_polling_continues_after_invalid_responses(fake: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("gateway.upstreams.health.POLL_S", 0.001)
    async with fake(health=5, models="x") as server, _session() as session:
        poller = HealthPoller(server.url, session, on_return=_nothing, timeout_s=60)
        task = asyncio.create_task(poller.run())
        await asyncio.sleep(0.05)
        server.health, server.models = READY, MODELS
        while poller.status_of("tiny").residency is not Residency.READY and not task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert poller.status_of("tiny").residency is Residency.READY


def _session() -> aiohttp.ClientSession:
    return open_session(connect_s=60)


def _nothing() -> None:
    pass


ODD: dict[str, bytes] = {
    "not-http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "header-too-large": b"HTTP/1.1 200 OK\r\nX-Large: " + b"x" * 200_000 + b"\r\n\r\n",
    "length-in-words": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}",
    "body-without-end": b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (3 << 20),
    "chunk-size-broken": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "redirect-in-circles": b"HTTP/1.1 302 Found\r\nLocation: /health\r\nContent-Length: 0\r\n\r\n",
    "redirect-to-no-port": b"HTTP/1.1 302 Found\r\nLocation: http://h:99999/\r\nContent-Length: 0\r\n\r\n",
    "redirect-to-a-file": b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("name", ODD)
async def test_whatever_answers_at_the_url_of_a_worker_its_polling_goes_on(name: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ODD[name])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, _session() as session:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        poller = HealthPoller(url, session, on_return=_nothing, timeout_s=60)
        assert await poller.poll(models=True) is False
    assert poller.status_of("tiny").residency is Residency.UNREACHABLE


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "soon", ""])
async def test_an_impossible_predicted_wait_is_unknown(value: str) -> None:
    async with _session() as session:
        poller = HealthPoller("http://127.0.0.1:1", session, on_return=_nothing)
        poller.record_response({"x-twolane-worker-predicted-wait-ms": value})
    assert poller.status_of("tiny") == Status(residency=Residency.READY)
