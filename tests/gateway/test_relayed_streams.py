"""A stream whose text is relayed as it came has the bytes and the decision of one that is read."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from gateway.upstreams.http_client import response
from tests.gateway.serving import STOP, ask, chunk, last_decision, one_lane, start_stream
from twolane.process.http import compiled

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not compiled.IS_BUILT, reason="the compiled readers are not built"),
]
USAGE = b'data: {"id":"c1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'
TEXTS = ("wörld", "\n", "😀 \\ ", '"quoted"')


@pytest.mark.parametrize("usage", [b"", USAGE])
@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
async def test_relayed_text_reaches_client_and_decision_alike(
    serving: Any, fake: Any, monkeypatch: pytest.MonkeyPatch, usage: bytes, options: dict[str, Any]
) -> None:
    relayed: list[bytes] = []
    has_first, has_text = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request, _body: Any) -> web.StreamResponse:
        stream = await start_stream(request)
        await stream.write(chunk("hello "))
        await has_first.wait()
        for text in TEXTS:
            await stream.write(chunk(text))
        await has_text.wait()
        await stream.write(STOP + usage + b"data: [DONE]\n\n")
        return stream

    def read(data: bytes) -> tuple[int, int, int] | None:
        found = compiled.read_text_chunks(data)
        if found is not None:
            relayed.append(data)
        return found

    async def stream(gateway: Any) -> tuple[bytes, Any]:
        has_first.clear()
        has_text.clear()
        async with gateway.client.post(
            f"{gateway.url}/v1/chat/completions", json=ask(stream=True, **options)
        ) as received:
            body = await arrived(received.content.readany, b"hello ")
            has_first.set()
            body += await arrived(received.content.readany, b"quoted")
            has_text.set()
            body += await received.content.read()
            decision = await last_decision(gateway, received.headers)
        return body, {name: decision[name] for name in ("outcome", "usage", "target") if name in decision}

    async with fake(answer) as server, serving(one_lane(server.url), http_client="pooled") as gateway:
        monkeypatch.setattr(response, "read_text_chunks", read)
        found = await stream(gateway)
        assert relayed, "no text was relayed"
        monkeypatch.setattr(response, "read_text_chunks", lambda _: None)
        assert await stream(gateway) == found
    body, decision = found
    expected = chunk("hello ") + b"".join(map(chunk, TEXTS)) + STOP
    assert body == expected + (usage if options else b"") + b"data: [DONE]\n\n"
    assert decision["outcome"] == "ok"


async def arrived(read: Callable[[], Awaitable[bytes]], last: bytes) -> bytes:
    """What is read until `last` has arrived with the end of its event."""
    body = b""
    while last not in body or not body.endswith(b"\n\n"):
        part = await read()
        assert part, "the stream ended"
        body += part
    return body
