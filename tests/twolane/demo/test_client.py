"""The demo's client sends cases as an application would, and records the replies."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from twolane.demo.case_types import Api, Case, Expectation, not_empty
from twolane.demo.client import connect, send, send_case

pytestmark = pytest.mark.anyio
Answer = Callable[[dict[str, Any]], bytes]


class Gateway:
    """A fake gateway: records each request and responds with what `answer` returns."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.in_flight = self.max_in_flight = 0
        self.answer: Answer = lambda body: whole(completion("ok"))
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length"))
        body = json.loads(await reader.readexactly(length))
        self.seen.append((head, body))
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        await asyncio.sleep(0.005)
        self.in_flight -= 1
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


def case(**changed: Any) -> Case:
    return Case(title="a", prompt="the prompt", expect=Expectation(target="fast", answer=not_empty()), **changed)


async def test_body_and_headers_are_sent_unchanged(gateway: Gateway) -> None:
    async with connect(gateway.url) as client:
        sent = case(body={"seed": 1, "metadata": {"task": "edit"}}, headers={"x-twolane-private": "true"}, model="m")
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
    assert (reply.status, reply.text, reply.header("target"), reply.error) == (200, "ok", "fast", "")


async def test_a_gap_is_filled_by_a_text_completion(gateway: Gateway) -> None:
    gateway.answer = lambda body: whole({"id": "1", "choices": [{"index": 0, "text": "a + b"}]})
    async with connect(gateway.url) as client:
        reply = await send(client, case(api=Api.COMPLETION, body={"suffix": "end"}))
    head, body = gateway.seen[0]
    assert head.startswith("post /v1/completions ")
    assert body == {"model": "auto", "prompt": "the prompt", "suffix": "end"}
    assert (reply.text, reply.header("target")) == ("a + b", "fast")


async def test_the_answers_of_a_decision_are_named_by_their_questions(gateway: Gateway) -> None:
    answers = [
        {"type": "predicate", "name": "angry", "probability": 0.75},
        {"type": "choice", "name": "team", "choice": "billing", "confidence": 1.0, "probabilities": []},
    ]
    gateway.answer = lambda body: whole({"answers": answers, "model": "m"})
    questions = [{"type": "predicate", "name": "angry", "min_confidence": 0.5}]
    async with connect(gateway.url) as client:
        reply = await send(client, case(api=Api.DECISION, body={"questions": questions}))
    head, body = gateway.seen[0]
    assert head.startswith("post /v1/decisions ")
    assert body == {"model": "auto", "input": "the prompt", "questions": questions}
    assert json.loads(reply.text) == {"angry": 0.75, "team": "billing"}


async def test_the_pieces_of_a_stream_are_joined(gateway: Gateway) -> None:
    pieces = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in ("fix ", "it")]
    gateway.answer = lambda body: stream(*pieces, {"choices": [], "usage": None})
    async with connect(gateway.url) as client:
        reply = await send(client, case(stream=True))
    assert (reply.status, reply.text, reply.header("target")) == (200, "fix it", "fast")


async def test_an_error_is_recorded_by_its_code(gateway: Gateway) -> None:
    error = {"error": {"message": "no", "type": "invalid_request_error", "code": "model_not_found", "param": "model"}}
    gateway.answer = lambda body: whole(error, "404 Not Found", "")
    async with connect(gateway.url) as client:
        reply = await send(client, case())
    assert (reply.status, reply.text, reply.error) == (404, "model_not_found", "")


async def test_a_stream_that_ends_with_an_error_is_recorded_as_an_error(gateway: Gateway) -> None:
    gateway.answer = lambda body: stream({"error": {"message": "too late", "code": "invalid_output"}}, done=False)
    async with connect(gateway.url) as client:
        reply = await send(client, case(stream=True))
    assert "too late" in reply.error


async def test_a_refused_connection_is_recorded_as_an_error() -> None:
    async with connect("http://127.0.0.1:1") as client:
        reply = await send(client, case())
    assert (reply.status, bool(reply.error)) == (0, True)


async def test_a_case_is_sent_the_given_number_of_times_in_sequence_or_concurrently(gateway: Gateway) -> None:
    async with connect(gateway.url) as client:
        assert len(await send_case(client, case(times=3))) == 3
        assert gateway.max_in_flight == 1
        assert len(await send_case(client, case(times=3, concurrent=True))) == 3
        assert gateway.max_in_flight == 3


async def test_a_repeated_case_stops_after_enough_consecutive_expected_replies(gateway: Gateway) -> None:
    targets = iter(["fast", "quality", "fast", "fast", "fast"])
    gateway.answer = lambda body: whole(completion("ok"), headers=f"x-twolane-target: {next(targets)}\r\n")
    async with connect(gateway.url) as client:
        replies = await send_case(client, case(repeat=True, consecutive=2))
    assert [reply.header("target") for reply in replies] == ["fast", "quality", "fast", "fast"]


async def test_one_expected_reply_completes_a_round(gateway: Gateway) -> None:
    targets = iter(["quality", "quality", "quality", "fast", "fast", "fast"])
    gateway.answer = lambda body: whole(completion("ok"), headers=f"x-twolane-target: {next(targets)}\r\n")
    async with connect(gateway.url) as client:
        replies = await send_case(client, case(repeat=True, times=2, concurrent=True))
    assert len(replies) == 4
    assert gateway.max_in_flight == 2


async def test_a_repeated_case_stops_at_its_time_limit(gateway: Gateway) -> None:
    gateway.answer = lambda body: whole(completion("ok"), headers="x-twolane-target: quality\r\n")
    async with connect(gateway.url) as client:
        replies = await send_case(client, case(repeat=True, within_s=0.1))
    assert {reply.header("target") for reply in replies} == {"quality"}
