"""API keys: the layer that requires them."""

from pathlib import Path
from typing import Any

import pytest

from twolane.process.api_keys import key_line

pytestmark = pytest.mark.anyio

POLICY = """
version: 1
targets:
  only: {kind: openai, engine: openai, url: "%s", model: m, location: in_cluster}
routes:
  - {name: default, use: only}
"""


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text(f"{key_line('anna', 'sk-anna')}\n{key_line('ben', 'sk-ben')}\n")
    return file


async def test_without_a_valid_key_nothing_but_probes_is_answered(fake: Any, serving: Any, keys_file: Path) -> None:
    async with fake() as server, serving(POLICY % server.url, keys_file=keys_file) as gateway:
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic sk-anna"}):
            status, _, body = await gateway.ask(**given)
            assert (status, body["error"]["code"]) == (401, "invalid_api_key")
        for path in ("/v1/models", "/docs", "/openapi.json", "/nothing"):
            async with gateway.client.get(gateway.url + path) as response:
                assert response.status == 401
        for path in ("/metrics", "/admin/decisions/x"):
            async with gateway.client.get(gateway.admin_url + path) as response:
                assert response.status == 401
        for url in (gateway.url, gateway.admin_url):
            async with gateway.client.get(f"{url}/health") as response:
                assert response.status == 200
    assert server.bodies == []


async def test_a_key_is_named_in_the_decision_and_never_passed_on(fake: Any, serving: Any, keys_file: Path) -> None:
    async with fake() as server, serving(POLICY % server.url, keys_file=keys_file) as gateway:
        status, headers, _ = await gateway.ask(authorization="Bearer sk-ben")
        assert status == 200
        url = f"{gateway.admin_url}/admin/decisions/{headers['x-request-id']}"
        async with gateway.client.get(url, headers={"authorization": "Bearer sk-anna"}) as response:
            assert (await response.json())["principal"] == "ben"
    assert "authorization" not in {name.lower() for name in server.headers[0]}


async def test_a_targets_own_key_comes_from_the_environment(fake: Any, serving: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("TARGET_KEY", "sk-target")
    async with (
        fake() as server,
        serving(POLICY.replace("model: m", "model: m, key_env: TARGET_KEY") % server.url) as it,
    ):
        await it.ask(authorization="Bearer sk-of-the-client")
    assert server.headers[0]["authorization"] == "Bearer sk-target"
