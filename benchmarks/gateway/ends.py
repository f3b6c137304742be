"""The floor of the gateway's cost: `python ends.py PORT UPSTREAM_PORT`.

The gateway's own server and its own client of targets, with nothing in between: a request is sent on as it came. What
the gateway costs beyond this is what it does: keys, parsing, classification, admission, reading the answer, telemetry.
"""

import gc
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import uvloop
from yarl import URL

from gateway.upstreams.http_client.pool import PooledClient
from twolane.process.http.request_cycle import CYCLE, RequestCycle
from twolane.process.http.server import build_server

Message = MutableMapping[str, Any]
_JSON: Final = {"content-type": "application/json"}


class Ends:
    """An ASGI application in front of one upstream."""

    def __init__(self, upstream_port: int) -> None:
        self._client, self._url = PooledClient(), URL(f"http://127.0.0.1:{upstream_port}/v1/chat/completions")

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Relay one request, whose body has arrived with its head."""
        body = (await receive())["body"]
        answer = await self._client.post(self._url, body, _JSON)
        if "event-stream" in answer.headers["content-type"]:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while part := await answer.read():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        cycle: RequestCycle = scope[CYCLE]
        cycle.respond(200, [(b"content-type", b"application/json")], await answer.read())


async def _serve(port: int, upstream_port: int) -> None:
    server = build_server(Ends(upstream_port), drain_s=1)
    server.config.port = port
    gc.collect()
    gc.freeze()
    await server.serve()


if __name__ == "__main__":
    uvloop.run(_serve(*map(int, sys.argv[1:])))
