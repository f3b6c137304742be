"""Which client calls which URL."""

from collections.abc import Mapping
from typing import Any

import pytest
from yarl import URL

from gateway.upstreams.http_client.client import ClientByScheme

pytestmark = pytest.mark.anyio


class Recorder:
    """A client that records what it is asked to call."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.is_closed = False

    async def post(self, url: URL, body: bytes, headers: Mapping[str, str], *, proxy: URL | None = None) -> Any:
        self.called.append(str(url))

    async def aclose(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(
    ("url", "proxy", "is_plain"),
    [
        ("http://h/x", None, True),
        ("http://[::1]:8000/x", None, True),
        ("https://h/x", None, False),
        ("http://h/x", "http://p:3128", False),
        ("https://h/x", "http://p:3128", False),
    ],
)
async def test_tls_and_proxies_are_never_left_to_the_plain_client(url: str, proxy: str | None, is_plain: bool) -> None:
    plain, other = Recorder(), Recorder()
    client = ClientByScheme(plain, lambda: other)
    await client.post(URL(url), b"", {}, proxy=URL(proxy) if proxy else None)
    assert (plain.called, other.called) == (([url], []) if is_plain else ([], [url]))
    await client.aclose()
    assert plain.is_closed
    assert other.is_closed is not is_plain  # what was not needed is not made
