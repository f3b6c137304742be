"""Fixtures of the gateway's tests: a pipeline over scripted targets, and gateways on real sockets."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.enums import Kind
from gateway.policy_types import Slo
from gateway.types import Query, Target
from tests.gateway.serving import STOP, chunk, completion, fake_server, real_gateway, says_hello, start_stream
from tests.gateway.stage import build_stage
from tests.gateway.virtual import LoopClock, run_virtual


@pytest.fixture(scope="session")  # it only hands out a function, so property tests may share it
def stage() -> Any:
    """Build a stage: `stage(fast=[lines], quality=[lines], route={...}, fast_target={...})`."""
    return build_stage


@pytest.fixture
def tight_slo() -> Slo:
    """100 ms, and quick to probe."""
    return Slo(p95_ms=100, window_s=12, probe_every_s=0.5, base_ejection_s=1)


@pytest.fixture(scope="session")
def fake() -> Any:
    """A fake target of the gateway: `async with fake(answer) as server`."""
    return fake_server


@pytest.fixture
def http_client() -> str:
    """The client of targets at http:// URLs. Modules that test both override it."""
    return "aiohttp"


@pytest.fixture
def serving(tmp_path: Path, http_client: str) -> Any:
    """A real gateway: `async with serving(policy_text) as gateway`."""
    return lambda policy, **settings: real_gateway(tmp_path, policy, **{"http_client": http_client, **settings})


@pytest.fixture(scope="session")
def wire() -> Any:
    """Answers as bytes: `completion`, `chunk`, `stop`, `start_stream`."""
    return SimpleNamespace(
        completion=completion, chunk=chunk, stop=STOP, start_stream=start_stream, says_hello=says_hello
    )


@pytest.fixture(name="play", scope="session")  # it only hands out a function
def make_play(stage: Any) -> Callable[..., Any]:
    """Play a story over a stage in virtual time: `play(story, fast=..., quality=...)`."""

    def play(story: Callable[[Any], Coroutine[Any, Any, Any]], **given_lines: Any) -> Any:
        async def run() -> Any:
            scene = stage(clock=LoopClock(), **given_lines)
            told = await story(scene)
            assert sum(scene.state._in_flight.values()) == 0
            return told

        return run_virtual(run())

    return play


@pytest.fixture(name="query")
def make_query() -> Callable[..., Query]:
    """A chat request with the fields that the test sets."""

    def build(**fields: Any) -> Query:
        return Query(**{"request_id": "req_1", "model": "auto", "body": b"{}", "received_s": 0.0, **fields})

    return build


@pytest.fixture(name="target", scope="session")  # it only hands out a function
def make_target() -> Callable[..., Target]:
    """A target inside the cluster, with its own server."""

    def build(name: str = "fast", **fields: Any) -> Target:
        given = {"kind": Kind.WORKER, "url": f"http://{name}", "model": "m", "location": "in_cluster", **fields}
        return Target(name=name, **given)

    return build
