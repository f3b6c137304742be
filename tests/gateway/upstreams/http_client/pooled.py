"""A pooled client for a test, and whole answers of it."""

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

from yarl import URL

from gateway.upstreams.http_client.client import HttpResponse
from gateway.upstreams.http_client.limits import ClientLimits
from gateway.upstreams.http_client.pool import PooledClient
from tests.gateway.upstreams.http_client.raw_server import sized

OK = sized(b"ok")
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf"


@contextlib.asynccontextmanager
async def pooled(**limits: Any) -> AsyncIterator[PooledClient]:
    client = PooledClient(ClientLimits(**{"connect_s": 30, **limits}))
    try:
        yield client
    finally:
        await client.aclose()


async def body_of(response: HttpResponse) -> bytes:
    parts = []
    while part := await response.read():
        parts.append(part)
    response.close()
    return b"".join(parts)


async def ask(client: PooledClient, url: URL, method: str = "POST") -> bytes:
    return await body_of(await client.request(method, url, {}, b"{}"))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
