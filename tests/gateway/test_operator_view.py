"""What an operator sees of one request through a real gateway: the replica that answered, the status of the target, the
tenant, and no name from a schema."""

import asyncio
import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from gateway.settings import read_settings
from tests.gateway.serving import ask, completion, last_decision, one_lane, two_lanes, until
from twolane.process.api_keys import key_line
from twolane.process.errors import ConfigurationError

pytestmark = pytest.mark.anyio
HEADER = "x-twolane-gateway"
FORM = {
    "type": "json_schema",
    "json_schema": {
        "name": "form",
        "schema": {
            "type": "object",
            "properties": {"anna_schmidt": {"type": "object", "additionalProperties": {"type": "integer"}}},
            "required": ["anna_schmidt"],
        },
    },
}


def keys_file(folder: Path, *names: str) -> Path:
    file = folder / "keys"
    lines = [key_line(name, f"sk-{name}") for name in names]
    file.write_text("\n".join([*lines, key_line("prometheus", "sk-prometheus", ["scopes=metrics"])]))
    return file


async def test_every_response_of_the_public_port_names_the_replica(serving: Any, fake: Any, tmp_path: Path) -> None:
    """Also those that no route has seen: without a key, of an unknown path, and to what is no HTTP."""
    keys, log = keys_file(tmp_path, "anna"), tmp_path / "log.jsonl"
    async with fake() as server:
        settings = {"keys_file": keys, "decision_log": log, "replica_name": "gateway-7", "cors_origins": ("*",)}
        async with serving(one_lane(server.url), **settings) as gateway:
            known = {"authorization": "Bearer sk-anna"}
            for asked, status in (
                (gateway.ask(**known), 200),
                (gateway.ask(ask(stream=True), **known), 200),
                (gateway.ask(b"{", **known), 400),
                (gateway.ask(), 401),
                (gateway.ask(path="/v1/nothing", **known), 404),
            ):
                found, headers, _ = await asked
                assert (found, headers[HEADER]) == (status, "gateway-7")
            async with gateway.client.get(f"{gateway.url}/health", headers={"origin": "https://a.example"}) as response:
                assert response.headers[HEADER] == "gateway-7"
                assert HEADER in response.headers["access-control-expose-headers"].split(", ")
            address = URL(gateway.url)
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(b"no http\r\n\r\n")
            assert f"\r\n{HEADER}: gateway-7\r\n".encode() in await reader.read()
            writer.close()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["gateway"] for line in lines} == {"gateway-7"}


async def test_a_gateway_without_a_name_has_no_such_header(serving: Any, fake: Any, tmp_path: Path) -> None:
    async with fake() as server, serving(one_lane(server.url), decision_log=tmp_path / "log.jsonl") as gateway:
        _, headers, _ = await gateway.ask()
    assert HEADER not in headers
    assert "gateway" not in json.loads((tmp_path / "log.jsonl").read_text())


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"HOSTNAME": "pod-1"}, "pod-1"),
        ({"HOSTNAME": "pod-1", "TWOLANE_REPLICA_NAME": "eu.1"}, "eu.1"),
        ({"HOSTNAME": "pod-1", "TWOLANE_REPLICA_NAME": ""}, None),
        ({}, None),
    ],
)
def test_the_name_is_the_pods_unless_it_is_set(environment: dict[str, str], name: str | None) -> None:
    assert read_settings(environment, {}).replica_name == name


@pytest.mark.parametrize("name", ["a b", "a\r\nx-evil: 1", "a,b", "é", "a" * 254])
def test_a_name_that_is_no_header_value_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="TWOLANE_REPLICA_NAME"):
        read_settings({"TWOLANE_REPLICA_NAME": name}, {})


async def test_a_failure_of_a_target_shows_its_status_everywhere(
    serving: Any, fake: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def busy(_: Any, body: Any) -> web.Response:
        return web.json_response({"error": {"message": "no"}}, status=529)

    log = tmp_path / "log.jsonl"
    async with fake() as gone:
        nobody = gone.url
    async with fake(busy) as fast, fake() as quality:
        async with serving(two_lanes(fast.url, quality.url), decision_log=log) as gateway:
            await gateway.ask()
            page = await until(gateway.metrics, 'twolane_target_responses_total{status="529",target="fast"} 1.0')
            assert 'twolane_target_responses_total{status="200",target="quality"} 1.0' in page
        async with serving(two_lanes(nobody, quality.url)) as gateway:
            await gateway.ask()
            await until(gateway.metrics, 'twolane_target_responses_total{status="none",target="fast"} 1.0')
    assert [attempt["status"] for attempt in json.loads(log.read_text())["attempts"]] == [529, 200]
    events = [vars(record)["fields"] for record in caplog.records if record.name == "gateway.events"]
    assert [each["status"] for each in events if each["event"] == "attempt_failed"] == [529, None]


async def test_requests_tokens_and_refusals_are_counted_by_the_name_of_the_key(
    serving: Any, fake: Any, tmp_path: Path
) -> None:
    async with fake() as server:
        policy = json.loads(one_lane(server.url)) | {"limits": [{"keys": ["anna"], "requests_per_minute": 1}]}
        keys = keys_file(tmp_path, "anna", "bert")
        async with serving(json.dumps(policy), keys_file=keys) as gateway:
            statuses = [(await gateway.ask(x_api_key=f"sk-{name}"))[0] for name in ("anna", "anna", "bert")]
            assert statuses == [200, 429, 200]
            page = await until(
                partial(gateway.metrics, x_api_key="sk-prometheus"), 'requests_total{error_source="",key="bert"'
            )
    for line in (
        'twolane_key_requests_total{error_source="",key="anna",outcome="ok"} 1.0',
        'twolane_key_requests_total{error_source="client",key="anna",outcome="error"} 1.0',
        'twolane_key_requests_total{error_source="",key="bert",outcome="ok"} 1.0',
        'twolane_key_tokens_total{key="anna",type="input"} 3.0',
        'twolane_key_tokens_total{key="bert",type="output"} 2.0',
        'twolane_key_rate_limited_total{key="anna"} 1.0',
        'twolane_key_rate_limited_total{key="bert"} 0.0',
    ):
        assert line in page
    assert "sk-" not in page


async def test_no_name_from_a_schema_is_logged_but_the_client_and_the_next_target_get_it(
    serving: Any, fake: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def wrong(_: Any, body: Any) -> web.Response:
        return web.json_response(completion('{"anna_schmidt": {"diagnosis_of_anna": "private"}}'))

    caplog.set_level(logging.INFO)
    log = tmp_path / "log.jsonl"
    checks = {"validate": {"schema": "request", "buffer": "full", "send_error_to_fallback": True}}
    async with fake(wrong) as fast, fake(wrong) as quality:
        async with serving(two_lanes(fast.url, quality.url, **checks), decision_log=log) as gateway:
            status, headers, answer = await gateway.ask(ask(response_format=FORM))
            decision = await last_decision(gateway, headers)
        sent = json.dumps(quality.bodies[0]["messages"])
    assert status == 502
    assert "type at #/properties/anna_schmidt/additionalProperties" in answer["error"]["message"]
    assert "type at #/properties/anna_schmidt/additionalProperties" in sent
    details = [attempt["detail"] for attempt in decision["attempts"]]
    assert details == 2 * ["type at #/properties/*/additionalProperties, byte 39"]
    logged = caplog.text + log.read_text() + json.dumps(decision)
    assert "type at #/properties/*/additionalProperties" in logged
    assert "anna" not in logged.lower()
    assert "private" not in logged.replace('"private"', "")
