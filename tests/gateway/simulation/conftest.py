"""Small traces and logs, and a policy with a hedge, a canary and checks."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from gateway.enums import Task
from gateway.policy_files.load import parse
from gateway.routing.policy import Policy
from gateway.simulation.traffic import Arrival, Trace

POLICY = """
version: 1
targets:
  fast: {kind: worker, url: "http://a", model: m, location: in_cluster, retry: {}}
  quality: {kind: openai, url: "http://b", model: m, engine: vllm, location: external}
routes:
  - name: edits
    when: {task: edit}
    use: fast
    slo: {p95_ms: 400}
    fall_back: [quality]
  - name: default
    use: quality
"""


@pytest.fixture(scope="session")
def policy() -> Callable[..., Policy]:
    """The policy above, with these texts replaced."""

    def made(*changes: tuple[str, str]) -> Policy:
        text = POLICY
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        return parse(text, {})

    return made


@pytest.fixture(scope="session")
def poisson() -> Callable[..., Trace]:
    """Poisson arrivals of edits: `poisson(rate=10, seconds=300)`, with other fields of an Arrival if given."""

    def made(*, rate: float, seconds: float, **fields: Any) -> Trace:
        dice, at_s, arrivals = Random(1), 0.0, []
        while (at_s := at_s + dice.expovariate(rate)) < seconds:
            sized = {"input_tokens": 100, "output_tokens": 20, "task": Task.EDIT, **fields}
            arrivals.append(Arrival(number=len(arrivals), at_s=at_s, **sized))
        return Trace(arrivals=tuple(arrivals))

    return made


def attempt(target: str, started_ms: float, ended_ms: float, outcome: str = "ok") -> dict[str, Any]:
    begun_ms = None if outcome == "upstream_error" else started_ms + 0.5 * (ended_ms - started_ms)
    return {
        "target": target, "started_ms": started_ms, "first_byte_ms": begun_ms, "ended_ms": ended_ms,
        "outcome": outcome, "detail": "",
    }  # fmt: skip


@pytest.fixture(scope="session")
def line() -> Callable[..., dict[str, Any]]:
    """One line of a decision log: `line(second, attempts, **changes)`; an attempt is (target, from, to, outcome)."""

    def made(second: float, attempts: list[tuple[Any, ...]], **changes: Any) -> dict[str, Any]:
        told = [attempt(*each) for each in attempts]
        return {
            "time": f"2026-01-01T00:{int(second // 60):02}:{second % 60:06.3f}Z", "id": "req_1", "policy": "0",
            "principal": None, "task": "edit", "confidence": 0.97, "evidence": "prediction", "route": "edits",
            "private": False, "stream": False, "input_tokens": 100, "output_tokens": 20, "schema": None,
            "attempts": told, "target": told[-1]["target"], "outcome": "ok", "fallback": None,
            "total_ms": told[-1]["ended_ms"], "cost": 0.0, **changes,
        }  # fmt: skip

    return made


@pytest.fixture
def log_file(tmp_path: Path) -> Callable[..., Path]:
    """Write lines to a decision log."""

    def written(*lines: dict[str, Any]) -> Path:
        file = tmp_path / "log.jsonl"
        file.write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in lines))
        return file

    return written
