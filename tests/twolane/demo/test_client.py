"""The tour's client sends rows as an application would, and notes what came back without judging it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from twolane.demo.case_types import Expectation, Row, anything
from twolane.demo.client import connect, send, send_row

pytestmark = pytest.mark.anyio
Answer = Callable[[dict[str, Any]], bytes]


class Gateway:
    """Stands in for the gateway: notes each request, answers with what `answer` returns."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.under_way = self.most_under_way = 0
        self.answer: Answer = lambda body: whole(completion("ok"))
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length"))
        body = json.loads(await reader.readexactly(length))
        self.seen.append((head, body))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0.005)
        self.under_way -= 1
        writer.write(self.answer(body))
        await writer.drain()
        writer.close()


@pytest.fixture
async def gateway(anyio_backend: str) -> AsyncIterator[Gateway]:
    scripted = Gateway()
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield scripted


def completion(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": message}]}


def whole(content: dict[str, Any], status: str = "200 OK", headers: str = "x-twolane-target: fast\r\n") -> bytes:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {len(body)}\r\n"
    return head.encode() + b"connection: close\r\n\r\n" + body


def stream(*events: dict[str, Any], done: bool = True) -> bytes:
    lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + ("data: [DONE]\n\n" if done else "")
    head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-twolane-target: fast\r\nconnection: close\r\n\r\n"
    return (head + lines).encode()


def row(**changed: Any) -> Row:
    return Row(asked="a", prompt="the prompt", expect=Expectation(target="fast", answer=anything()), **changed)


async def test_body_and_headers_leave_as_the_row_says(gateway: Gateway) -> None:
    async with connect(gateway.url) as client:
        sent = row(body={"seed": 1, "metadata": {"task": "edit"}}, headers={"x-twolane-private": "true"}, model="m")
        reply = await send(client, sent)
    head, body = gateway.seen[0]
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "the prompt"}],
        "stream": False,
        "seed": 1,
        "metadata": {"task": "edit"},
    }
    assert "x-twolane-private: true" in head
    assert (reply.status, reply.text, reply.header("target"), reply.broken) == (200, "ok", "fast", "")


async def test_a_streams_pieces_are_put_together(gateway: Gateway) -> None:
    pieces = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in ("fix ", "it")]
    gateway.answer = lambda body: stream(*pieces, {"choices": [], "usage": None})
    async with connect(gateway.url) as client:
        reply = await send(client, row(stream=True))
    assert (reply.status, reply.text, reply.header("target")) == (200, "fix it", "fast")


async def test_an_error_is_noted_by_its_code(gateway: Gateway) -> None:
    error = {"error": {"message": "no", "type": "invalid_request_error", "code": "model_not_found", "param": "model"}}
    gateway.answer = lambda body: whole(error, "404 Not Found", "")
    async with connect(gateway.url) as client:
        reply = await send(client, row())
    assert (reply.status, reply.text, reply.broken) == (404, "model_not_found", "")


async def test_a_stream_that_ends_with_an_error_is_broken(gateway: Gateway) -> None:
    gateway.answer = lambda body: stream({"error": {"message": "too late", "code": "invalid_output"}}, done=False)
    async with connect(gateway.url) as client:
        reply = await send(client, row(stream=True))
    assert "too late" in reply.broken


async def test_nobody_there_is_broken_and_not_an_exception() -> None:
    async with connect("http://127.0.0.1:1") as client:
        reply = await send(client, row())
    assert (reply.status, bool(reply.broken)) == (0, True)


async def test_rows_are_sent_as_often_as_they_say_one_after_the_other_or_at_once(gateway: Gateway) -> None:
    async with connect(gateway.url) as client:
        assert len(await send_row(client, row(times=3))) == 3
        assert gateway.most_under_way == 1
        assert len(await send_row(client, row(times=3, together=True))) == 3
        assert gateway.most_under_way == 3


async def test_until_stops_at_enough_good_replies_in_a_row(gateway: Gateway) -> None:
    targets = iter(["fast", "quality", "fast", "fast", "fast"])
    gateway.answer = lambda body: whole(completion("ok"), headers=f"x-twolane-target: {next(targets)}\r\n")
    async with connect(gateway.url) as client:
        replies = await send_row(client, row(until=True, in_a_row=2))
    assert [reply.header("target") for reply in replies] == ["fast", "quality", "fast", "fast"]


async def test_until_sends_rounds_and_one_good_reply_makes_a_good_round(gateway: Gateway) -> None:
    targets = iter(["quality", "quality", "quality", "fast", "fast", "fast"])
    gateway.answer = lambda body: whole(completion("ok"), headers=f"x-twolane-target: {next(targets)}\r\n")
    async with connect(gateway.url) as client:
        replies = await send_row(client, row(until=True, times=2, together=True))
    assert len(replies) == 4
    assert gateway.most_under_way == 2


async def test_until_gives_up_in_the_end(gateway: Gateway) -> None:
    gateway.answer = lambda body: whole(completion("ok"), headers="x-twolane-target: quality\r\n")
    async with connect(gateway.url) as client:
        replies = await send_row(client, row(until=True, within_s=0.1))
    assert {reply.header("target") for reply in replies} == {"quality"}
