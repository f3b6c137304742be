"""API keys: the layer that requires them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.serving import ask
from twolane.process.api_keys import key_line
from twolane.process.keys_file import WATCH_EVERY_S

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


async def test_a_key_does_what_its_scopes_allow(fake: Any, serving: Any, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    scopes = {"ask": "ask", "metrics": "metrics", "admin": "admin", "both": "ask,admin"}
    file.write_text("".join(key_line(name, name, [f"scopes={value}"]) + "\n" for name, value in scopes.items()))
    async with fake() as server, serving(POLICY % server.url, keys_file=file) as gateway:

        async def status_of(method: str, url: str, key: str, **body: Any) -> int:
            headers = {"authorization": f"Bearer {key}"}
            async with gateway.client.request(method, url, headers=headers, **body) as response:
                if response.status == 403:
                    assert (await response.json())["error"]["code"] == "permission_denied"
                return int(response.status)

        asked = {key: (await gateway.ask(authorization=f"Bearer {key}"))[0] for key in scopes}
        assert asked == {"ask": 200, "metrics": 403, "admin": 403, "both": 200}
        read = {key: await status_of("GET", gateway.admin_url + "/metrics", key) for key in scopes}
        assert read == {"ask": 403, "metrics": 200, "admin": 200, "both": 200}
        body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
        explained = {
            key: await status_of("POST", f"{gateway.admin_url}/admin/explain", key, json=body) for key in scopes
        }
        assert explained == {"ask": 403, "metrics": 403, "admin": 200, "both": 200}
    assert len(server.bodies) == 2


async def test_no_tenant_reads_the_decision_of_another(fake: Any, serving: Any, tmp_path: Path) -> None:
    """A foreign decision looks like one that does not exist; the key of an administrator reads all."""
    file = tmp_path / "keys"
    file.write_text("\n".join([key_line("anna", "a"), key_line("ben", "b"), key_line("op", "o", ["scopes=admin"])]))
    async with fake() as server, serving(POLICY % server.url, keys_file=file) as gateway:
        _, headers, _ = await gateway.ask(authorization="Bearer a")
        url = f"{gateway.admin_url}/admin/decisions/{headers['x-request-id']}"
        for key, status in (("a", 200), ("b", 404), ("o", 200)):
            async with gateway.client.get(url, headers={"authorization": f"Bearer {key}"}) as response:
                assert response.status == status


async def test_a_restricted_key_uses_only_its_models_and_routes(fake: Any, serving: Any, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    lines = [
        key_line("m", "m", ["models=only"]),
        key_line("r", "r", ["routes=default"]),
        key_line("p", "p", ["private-only"]),
    ]
    file.write_text("\n".join(lines))
    async with fake() as server, serving(POLICY % server.url, keys_file=file) as gateway:
        answers = {
            (key, model): await gateway.ask(ask(model=model), authorization=f"Bearer {key}")
            for key in "mrp"
            for model in ("auto", "only")
        }
        assert {each: status for each, (status, _, _) in answers.items()} == {
            ("m", "auto"): 403,
            ("m", "only"): 200,
            ("r", "auto"): 200,
            ("r", "only"): 403,  # a target that is named directly has the route `direct`
            ("p", "auto"): 200,
            ("p", "only"): 200,
        }
        assert answers["m", "auto"][2]["error"]["param"] == "model"
        async with gateway.client.get(f"{gateway.url}/v1/models", headers={"authorization": "Bearer m"}) as response:
            assert [entry["id"] for entry in (await response.json())["data"]] == ["only"]
        url = f"{gateway.admin_url}/admin/decisions/{answers['p', 'auto'][1]['x-request-id']}"
        async with gateway.client.get(url, headers={"authorization": "Bearer p"}) as response:
            assert (await response.json())["private"] is True


async def test_a_new_key_works_and_a_revoked_one_stops_without_a_restart(
    fake: Any, serving: Any, keys_file: Path
) -> None:
    """A file with a mistake keeps the keys as they are; a file without keys revokes all."""
    async with fake() as server, serving(POLICY % server.url, keys_file=keys_file) as gateway:

        async def until(key: str, status: int) -> None:
            while (await gateway.ask(authorization=f"Bearer {key}"))[0] != status:  # noqa: ASYNC110 - another task loads it
                await asyncio.sleep(0.02)

        await until("sk-anna", 200)
        await asyncio.to_thread(keys_file.write_text, key_line("carl", "sk-carl") + "\n")
        await until("sk-carl", 200)
        await until("sk-anna", 401)
        await asyncio.to_thread(keys_file.write_text, "carl sk-carl\n")
        await asyncio.sleep(3 * WATCH_EVERY_S)
        await until("sk-carl", 200)
        await asyncio.to_thread(keys_file.write_text, "# nobody\n")
        await until("sk-carl", 401)


async def test_a_key_is_named_in_the_decision_and_never_passed_on(fake: Any, serving: Any, keys_file: Path) -> None:
    async with fake() as server, serving(POLICY % server.url, keys_file=keys_file) as gateway:
        status, headers, _ = await gateway.ask(authorization="Bearer sk-ben")
        assert status == 200
        url = f"{gateway.admin_url}/admin/decisions/{headers['x-request-id']}"
        async with gateway.client.get(url, headers={"authorization": "Bearer sk-ben"}) as response:
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
