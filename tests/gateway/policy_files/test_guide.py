"""The examples of docs/policies.md load, and requests are routed as its tables say."""

import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.enums import Buffer, Capability, Task
from gateway.errors import GatewayError
from gateway.policy_files.load import parse
from gateway.policy_types import Checks, Hedge, Limit, Retry, Slo
from gateway.routing.classify import classify
from gateway.routing.engine_profiles import ENGINES
from gateway.routing.policy import Policy
from gateway.routing.route import plan_request
from gateway.web.parse_request import parse_chat
from twolane.process.api_keys import Key

GUIDE = (Path(__file__).parents[3] / "docs" / "policies.md").read_text()
EXAMPLES = [(found[1], found.end()) for found in re.finditer(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)]
FIRST_TARGETS = EXAMPLES[0][0].partition("routes:")[0]
ROW = re.compile(r"^\| `(\{.*\})` \| ([\w-]*) \| ([\w, ]+) \|$", re.MULTILINE)


def whole(example: str) -> str:
    """An example without targets uses those of the first."""
    if "targets:" not in example:
        return FIRST_TARGETS + example
    return example if "version:" in example else "version: 1\n" + example


def claims() -> list[Any]:
    """Every row of a table, with the example above it."""
    found = []
    ends = [*(end for _, end in EXAMPLES[1:]), len(GUIDE)]
    for (example, start), end in zip(EXAMPLES, ends, strict=True):
        rows = ROW.findall(GUIDE[start:end])
        found += [pytest.param(example, *row, id=f"{row[1]}: {row[0]}") for row in rows]
    return found


def asked(policy: Policy, request: dict[str, Any]) -> tuple[str, str]:
    """The route and its targets in order; or no route and the error code."""
    headers = {name.encode(): value.encode() for name, value in request.pop("headers", {}).items()}
    at = datetime.fromisoformat(request.pop("at", "2026-07-01T12:00")).replace(tzinfo=UTC)
    key, chars, sample = request.pop("key", None), request.pop("chars", 5), request.pop("draw", 0.0)
    content: Any = "x" * chars
    if request.pop("image", False):
        content = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    body = {"model": "auto", "messages": [{"role": "user", "content": content}], **request}
    query = parse_chat(orjson.dumps(body), headers, now_s=0.0, key=Key(name=key) if key else None)
    try:
        plan = plan_request(policy, query, classify(query), wall_s=at.timestamp(), sample=sample)
    except GatewayError as error:
        return "", error.code
    return plan.route, ", ".join(candidate.target.name for candidate in plan.candidates)


@pytest.mark.parametrize("example", [example for example, _ in EXAMPLES])
def test_every_example_loads(example: str) -> None:
    assert isinstance(parse(whole(example), {}), Policy)


@pytest.mark.parametrize(("example", "request_", "route", "targets"), claims())
def test_requests_go_where_the_guide_says(example: str, request_: str, route: str, targets: str) -> None:
    assert asked(parse(whole(example), {}), orjson.loads(request_)) == (route, targets)


def test_every_example_has_its_table() -> None:
    """One row per route, so that every example is tested."""
    assert len(EXAMPLES) >= 5
    proved = {(param.values[0], param.values[2]) for param in claims()}
    for example, _ in EXAMPLES:
        for name in re.findall(r"- name: ([\w-]+)", example):
            assert (example, name) in proved, name


RECORDS = (Slo, Hedge, Retry, Checks, Limit)


@pytest.mark.parametrize("word", [*Task, *Capability, *ENGINES, *Buffer, *(f.name for r in RECORDS for f in fields(r))])
def test_every_key_of_the_language_is_documented(word: str) -> None:
    assert re.search(rf"\b{word}\b", GUIDE)
