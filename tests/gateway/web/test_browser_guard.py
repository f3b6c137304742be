"""A gateway without API keys is out of reach for web pages in its user's browser."""

from typing import Any

import aiohttp
import pytest

from gateway.web.browser_guard import is_local_host
from tests.gateway.serving import ask, one_lane
from twolane.process.api_keys import key_line

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8080",
        "localhost.",
        "app.localhost:1",
        "127.0.0.1",
        "127.1.2.3:8080",
        "[::1]:8080",
        "[::1]",
        "host.docker.internal:8080",
        "gateway.lan",
        "gateway.lan:80",
    ],
)
def test_names_of_this_machine_are_local(host: str) -> None:
    assert is_local_host(host, frozenset({"gateway.lan"}))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "127.0.0.1.evil.example:80",
        "192.168.0.1",
        "0.0.0.0",
        "[2001:db8::1]:80",
        "xlocalhost",
        "gateway.lan.evil",
        "evil.example:80:localhost",
        "localhost@evil.example",
        "evilinternal",
        "-",
    ],
)
def test_other_names_are_foreign(host: str) -> None:
    assert not is_local_host(host, frozenset({"gateway.lan"}))


async def test_a_foreign_host_is_refused_on_every_path_of_both_ports(fake: Any, serving: Any) -> None:
    async with fake() as server, serving(one_lane(server.url), allowed_hosts=("gateway.lan",)) as gateway:
        urls = [gateway.url + path for path in ("/v1/models", "/health", "/v1/chat/completions")]
        for url in (*urls, f"{gateway.admin_url}/metrics"):
            async with gateway.client.get(url, headers={"host": "evil.example:8080"}) as response:
                assert (response.status, (await response.json())["error"]["code"]) == (403, "forbidden_host")
        status, _, _ = await gateway.ask(host="gateway.lan")
        assert status == 200
    assert len(server.bodies) == 1


async def test_a_body_that_a_page_can_send_without_permission_is_refused(fake: Any, serving: Any) -> None:
    types = (
        "text/plain",
        "Text/Plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    )
    async with fake() as server, serving(one_lane(server.url)) as gateway:
        for content_type in types:
            status, _, body = await gateway.ask(content_type=content_type)
            assert (status, body["error"]["code"]) == (415, "unsupported_media_type")
        for browser in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
            assert await status_without_type(gateway.url, browser) == 415
        assert server.bodies == []
        assert await status_without_type(gateway.url, {}) == 200  # not from a browser
        for content_type in ("application/json", "application/json; charset=utf-8", "application/octet-stream"):
            status, _, _ = await gateway.ask(content_type=content_type, origin="https://evil.example")
            assert status == 200  # a browser asks for permission first


async def status_without_type(url: str, headers: dict[str, str]) -> int:
    async with (
        aiohttp.ClientSession(skip_auto_headers=("content-type",)) as client,
        client.post(
            f"{url}/v1/chat/completions",
            json=None,
            data=b'{"model":"auto","messages":[{"role":"user","content":"x"}]}',
            headers=headers,
        ) as response,
    ):
        return response.status


async def test_with_keys_hosts_and_content_types_are_free(fake: Any, serving: Any, tmp_path: Any) -> None:
    """The key keeps pages out, and the gateway has a public name."""
    keys = tmp_path / "keys"
    keys.write_text(key_line("anna", "sk-anna") + "\n")
    async with fake() as server, serving(one_lane(server.url), keys_file=keys) as gateway:
        for name in ("authorization", "api_key", "x_api_key"):
            value = "Bearer sk-anna" if name == "authorization" else "sk-anna"
            status, _, _ = await gateway.ask(ask(), host="llm.example.com", content_type="text/plain", **{name: value})
            assert status == 200
        status, _, body = await gateway.ask(ask(), api_key="sk-anna", x_api_key="sk-ben")
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert not [name for headers in server.headers for name in headers if name.lower() in ("api-key", "x-api-key")]
