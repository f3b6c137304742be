"""Pages of allowed origins can use the gateway from a browser; others cannot."""

from typing import Any

import pytest

from gateway.settings import SCHEMA
from gateway.web.headers import MEANINGS
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
        assert {name.decode() for name in MEANINGS if name.startswith(b"x-twolane-")} <= set(exposed)
        status, headers, _ = await gateway.ask(origin=APP)
        assert (status, headers["access-control-allow-origin"]) == (401, APP)  # a page can read the reason


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
