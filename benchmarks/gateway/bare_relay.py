"""The yardstick of the gateway's cost: `python bare_relay.py PORT UPSTREAM_PORT`.

A relay with nothing but its job: uvicorn (httptools, uvloop) receives a request, orjson parses it and writes it with
another `model`, an aiohttp client sends it on, and the response or the stream is relayed. It imports nothing of the
gateway, so that a change of the gateway cannot change what the gateway is compared with.
"""

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import aiohttp
import orjson
import uvicorn

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_MODEL: Final = "canned"


class Relay:
    """An ASGI application in front of one upstream."""

    def __init__(self, upstream_port: int) -> None:
        self._url = f"http://127.0.0.1:{upstream_port}/v1/chat/completions"
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Relay one request."""
        if scope["type"] != "http":
            return
        document = orjson.loads(await _body(receive))
        document["model"] = _MODEL
        headers = {"content-type": "application/json"}
        async with self._client().post(self._url, data=orjson.dumps(document), headers=headers) as answer:
            if document.get("stream"):
                await _stream(answer, send)
            else:
                body = orjson.dumps(orjson.loads(await answer.read()))
                await send(_start(answer, (b"content-length", b"%d" % len(body))))
                await send({"type": "http.response.body", "body": body})

    async def aclose(self) -> None:
        """Close the connections to the upstream."""
        if self._session is not None:
            await self._session.close()

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._session


async def _body(receive: Receive) -> bytes:
    parts = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


async def _stream(answer: aiohttp.ClientResponse, send: Send) -> None:
    await send(_start(answer))
    async for part in answer.content.iter_any():
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _start(answer: aiohttp.ClientResponse, *more: tuple[bytes, bytes]) -> Message:
    kind = answer.headers.get("content-type", "application/json").encode()
    return {"type": "http.response.start", "status": answer.status, "headers": [(b"content-type", kind), *more]}


if __name__ == "__main__":
    port, upstream_port = map(int, sys.argv[1:])
    uvicorn.run(
        Relay(upstream_port),
        port=port,
        http="httptools",
        loop="uvloop",
        lifespan="off",
        log_level="error",
        access_log=False,
    )
