"""Pages of allowed origins can use the gateway from a browser; others cannot."""

import asyncio
from typing import Any

import pytest

from gateway.reliability.load_shedding import LoadShedder, SheddingRule
from gateway.settings import SCHEMA
from gateway.web.headers import KNOWN_EARLY, MEANINGS
from tests.gateway.serving import one_lane
from twolane.process.api_keys import key_line
from twolane.process.errors import ConfigurationError

pytestmark = pytest.mark.anyio
APP = "https://app.example.com"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, content-type"}


async def test_a_preflight_request_of_an_allowed_origin_needs_no_key(fake: Any, serving: Any, tmp_path: Any) -> None:
    keys = tmp_path / "keys"
    keys.write_text(key_line("anna", "sk-anna") + "\n")
    async with fake() as server, serving(one_lane(server.url), keys_file=keys, cors_origins=(APP,)) as gateway:
        for path in ("/v1/chat/completions", "/v1/models"):
            headers = {"origin": APP, **PREFLIGHT, "access-control-request-private-network": "true"}
            async with gateway.client.options(gateway.url + path, headers=headers) as response:
                assert response.status == 204
                assert response.headers["access-control-allow-origin"] == APP
                assert "POST" in response.headers["access-control-allow-methods"]
                assert response.headers["access-control-allow-headers"] == "authorization, content-type"
                assert response.headers["access-control-allow-private-network"] == "true"
                assert response.headers["vary"] == "Origin"
                assert "access-control-allow-credentials" not in response.headers
        status, headers, _ = await gateway.ask(origin=APP, authorization="Bearer sk-anna")
        assert (status, headers["access-control-allow-origin"]) == (200, APP)
        exposed = headers["access-control-expose-headers"].split(", ")
        assert {name.decode() for name in (*MEANINGS, *KNOWN_EARLY)} <= set(exposed)
        status, headers, _ = await gateway.ask(origin=APP)
        assert (status, headers["access-control-allow-origin"]) == (401, APP)  # a page can read the reason


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", 503),
        (b"x: " + b"a" * 70_000, 431),
        (b"x: y", 408),
        (b"content-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"content-type: application/json\r\ncontent-length: 99999999\r\n\r\n", 413),
    ],
)
async def test_a_page_can_read_every_error_that_precedes_the_routes(
    sent: bytes, status: int, fake: Any, serving: Any
) -> None:
    """Those of the listener, of the byte budget, and of an overloaded gateway."""
    async with fake() as server, serving(one_lane(server.url), cors_origins=(APP,), head_timeout_s=0.2) as gateway:
        if status == 503:
            gateway.gateway.ingress._shedder = LoadShedder(SheddingRule(max_delay_s=-1, overloaded_delay_s=-1))
            _, headers, body = await gateway.ask(origin=APP)
            assert body["error"]["code"] == "overloaded"
        else:
            lines = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\norigin: %b\r\n" % APP.encode()
            headers = await headers_of(int(gateway.url.rpartition(":")[2]), lines + sent, status)
        assert headers["access-control-allow-origin"] == APP
        assert "retry-after" in headers["access-control-expose-headers"]


async def headers_of(port: int, sent: bytes, status: int) -> dict[str, str]:
    """The headers of the response to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    writer.close()
    assert int(head.split()[1]) == status
    return dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])


async def test_a_page_can_read_the_errors_at_the_end_of_a_drain_and_of_a_defect(
    fake: Any, serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: Any) -> Any:
        raise RuntimeError("a bug")

    async with fake() as server, serving(one_lane(server.url), cors_origins=(APP,)) as gateway:
        monkeypatch.setattr("gateway.web.chat.unique_headers", defect)
        status, headers, _ = await gateway.ask(origin=APP)
        assert (status, headers["access-control-allow-origin"]) == (500, APP)
        gateway.gateway.end_drain()
        status, headers, body = await gateway.ask(origin=APP)
        assert (status, body["error"]["code"], headers["access-control-allow-origin"]) == (503, "draining", APP)
        async with gateway.client.options(
            f"{gateway.url}/v1/chat/completions", headers={"origin": APP, **PREFLIGHT}
        ) as response:
            assert response.status == 204  # else the page could not send the request whose error it is to read


async def test_other_origins_get_no_permission(fake: Any, serving: Any) -> None:
    """A scheme, port or subdomain makes another origin."""
    async with fake() as server, serving(one_lane(server.url), cors_origins=(APP,)) as gateway:
        for origin in ("http://app.example.com", f"{APP}:8443", "https://x.app.example.com", "null", f"{APP}.evil"):
            url = f"{gateway.url}/v1/chat/completions"
            async with gateway.client.options(url, headers={"origin": origin, **PREFLIGHT}) as response:
                body = await response.json()
                assert (response.status, body["error"]["code"]) == (403, "forbidden_origin")
                assert "access-control-allow-origin" not in response.headers
            _, headers, _ = await gateway.ask(origin=origin)
            assert "access-control-allow-origin" not in headers


async def test_any_origin_may_be_allowed_but_never_with_credentials(fake: Any, serving: Any) -> None:
    async with fake() as server, serving(one_lane(server.url), cors_origins=("*",)) as gateway:
        _, headers, _ = await gateway.ask(origin="https://anywhere.example")
        assert headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in headers


async def test_without_the_setting_browsers_are_given_no_permission(fake: Any, serving: Any) -> None:
    async with fake() as server, serving(one_lane(server.url)) as gateway:
        url = f"{gateway.url}/v1/chat/completions"
        async with gateway.client.options(url, headers={"origin": APP, **PREFLIGHT}) as response:
            assert (response.status, response.headers["allow"]) == (405, "POST")
        _, headers, _ = await gateway.ask(origin=APP)
        assert not [name for name in headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "wrong", ["app.example.com", "https://app.example.com/", "null", "https://*.example.com", "a b"]
)
def test_a_setting_that_is_no_origin_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=r"TWOLANE_CORS_ORIGINS: .* is neither"):
        SCHEMA.read({"TWOLANE_CORS_ORIGINS": f"{APP},{wrong}"}, {})


def test_origins_are_separated_by_commas() -> None:
    settings = SCHEMA.read({"TWOLANE_CORS_ORIGINS": f" {APP}, http://LOCALHOST:3000 ,tauri://localhost,"}, {})
    assert settings.cors_origins == (APP, "http://localhost:3000", "tauri://localhost")
