"""litellm itself: an optional dependency, imported offline, that fetches nothing; and a real model behind it."""

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from gateway.errors import PolicyError
from gateway.policy_files.load import parse
from gateway.upstreams import litellm
from tests.gateway.serving import last_decision, one_lane
from tests.gateway.upstreams.provider_servers import (
    GEMINI,
    LITELLM_MARKS,
    answers,
    ask,
    policy,
    provider_server,
    speaks_anthropic,
    speaks_gemini,
)
from twolane.process.flags import free_port

pytestmark = LITELLM_MARKS


async def test_no_request_makes_the_gateway_fetch_anything(serving: Any, fake: Any) -> None:
    image = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/secret"}}
    asked = ask(messages=[{"role": "user", "content": [{"type": "text", "text": "what is this?"}, image]}])
    async with provider_server(speaks_gemini) as server, serving(policy(server.url, GEMINI)) as gateway:
        status, headers, _ = await gateway.ask(asked)
    assert (status, headers["x-twolane-attempts"]) == (400, "provider=unsupported")
    assert server.requests == []


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.policy_files.targets.find_spec", lambda _: None)
    with pytest.raises(PolicyError) as refused:
        parse(policy("http://127.0.0.1:9"), {}, file="p.yaml")
    assert refused.value.key == "targets.provider.kind"
    assert "extra `providers`: pip install --require-hashes" in str(refused.value)


def test_litellm_loads_without_network_price_list_or_dotenv(tmp_path: Any) -> None:
    """In a subprocess that records every name lookup and connection."""
    (tmp_path / ".env").write_text("SLIPPED_IN=1\n")
    script = textwrap.dedent(
        """
        import asyncio, gc, os, socket, sys
        interval_s = sys.getswitchinterval()
        seen = []
        socket.getaddrinfo = lambda *where, **_: seen.append(where) or (_ for _ in ()).throw(OSError("no network"))
        connect = socket.socket.connect
        socket.socket.connect = lambda self, where: seen.append(where) or connect(self, where)
        from gateway.upstreams.litellm import LiteLLMLibrary

        async def main():
            library = LiteLLMLibrary()
            litellm = await library.loaded()
            assert litellm.callbacks == [] and litellm.cache is None and litellm.telemetry is False
            assert gc.isenabled() and sys.getswitchinterval() == interval_s, "what loading changed for a while"
            assert litellm.model_cost["claude-sonnet-4-5"]["input_cost_per_token"] > 0
            await library.aclose()

        asyncio.run(main())
        assert not seen, seen
        assert "SLIPPED_IN" not in os.environ
        """
    )
    environment = {"PATH": "/usr/bin", "PYTHONPATH": ":".join(filter(None, sys.path)), "HOME": str(tmp_path)}
    outcome = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr


async def test_a_reload_that_first_names_a_provider_serves_the_old_policy_until_it_is_loaded(
    serving: Any, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request waits for the import: those before its end use the old policy, later ones the provider."""
    loaded = asyncio.Event()
    load = litellm._import_gently

    async def slowly() -> Any:
        litellm = await load()
        while not loaded.is_set():  # noqa: ASYNC110 - set from the other thread
            await asyncio.sleep(0.005)
        return litellm

    monkeypatch.setattr(litellm, "_import_gently", slowly)
    async with fake() as other, provider_server(speaks_anthropic) as server, serving(one_lane(other.url)) as gateway:
        gateway.gateway.policies.path.write_text(policy(server.url))
        reading = asyncio.create_task(gateway.gateway.watcher.reload())
        assert (await gateway.ask(ask()))[1]["x-twolane-target"] == "only"
        assert not reading.done()
        loaded.set()
        await reading
        assert (await gateway.ask(ask()))[1]["x-twolane-target"] == "provider"


@pytest.fixture(name="quality_url", scope="module")
def start_quality() -> Iterator[str]:
    """The quality server of the demo, real weights and all."""
    port = free_port()
    line = [sys.executable, "-m", "twolane", "quality", "--port", str(port)]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"smollm2 at" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}/v1"
        process.terminate()
        assert process.wait(timeout=500) == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_real_model_behind_litellm_keeps_a_schema(serving: Any, quality_url: str, stream: bool) -> None:
    """Through litellm's client for OpenAI-compatible servers; the price is unknown."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    async with serving(policy(quality_url, "openai/smollm2")) as gateway:
        status, headers, body = await gateway.ask(ask(stream=stream, response_format=wanted, seed=1))
        decision = await last_decision(gateway, headers)
    assert (status, headers["x-twolane-schema"]) == (200, "valid")
    parts = [choice.get("message") or choice["delta"] for one in answers(body) for choice in one["choices"]]
    text = "".join(part.get("content") or "" for part in parts)
    assert isinstance(orjson.loads(text)["n"], int)
    assert decision["input_tokens"] > 0
    assert decision["cost"] == 0
