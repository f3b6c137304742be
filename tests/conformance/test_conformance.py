"""The gateway breaks no rule of OpenAI's API before a server without a fault, and every rule can be broken."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
import pytest

from tests.conformance.asks import asks
from tests.conformance.exchange import Exchange, exchange
from tests.conformance.rules import RULES
from tests.conformance.suite import failures
from tests.conformance.upstream import answer
from tests.gateway.serving import fake_server, real_gateway

pytestmark = pytest.mark.anyio
TARGETS: Final[dict[str, dict[str, Any]]] = {
    "chats only": {"engine": "openai"},
    "with text completions": {"engine": "vllm"},
    "with responses": {"engine": "openai", "responses": True},
}
CHECKED: Final = {"validate": {"schema": "request", "buffer": "full"}}


def policy(url: str, target: dict[str, Any], route: dict[str, Any]) -> str:
    named = {"kind": "openai", "url": url, "model": "m", "location": "external", **target}
    return orjson.dumps(
        {"version": 1, "targets": {"only": named}, "routes": [{"name": "default", "use": "only", **route}]}
    ).decode()


async def exchanges(url: str) -> list[Exchange]:
    async with aiohttp.ClientSession() as client:
        return [await exchange(client, url, ask) for ask in asks()]


@pytest.mark.parametrize("route", [{}, CHECKED], ids=["passed on as it comes", "checked as a whole"])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
async def test_the_gateway_breaks_no_rule(target: dict[str, Any], route: dict[str, Any], tmp_path: Path) -> None:
    async with fake_server(answer) as upstream, real_gateway(tmp_path, policy(upstream.url, target, route)) as gateway:
        found = await exchanges(gateway.url)
    broken = [(each.ask.kind, dict(each.ask.body), failed) for each in found if (failed := failures(each))]
    assert broken == []


@pytest.mark.slow
async def test_every_rule_is_broken_by_a_small_change_of_an_answer(tmp_path: Path) -> None:
    """A rule that nothing breaks would check nothing."""
    target = TARGETS["with text completions"]
    async with fake_server(answer) as upstream, real_gateway(tmp_path, policy(upstream.url, target, {})) as gateway:
        found = await exchanges(gateway.url)
    unbroken = list(RULES)
    for changed in (changed for each in found for changed in changes(each)):
        kind = changed.ask.kind.partition(":")[0]
        unbroken = [rule for rule in unbroken if kind not in rule.kinds or rule.holds(changed)]
        if not unbroken:
            return
    assert unbroken == []


def changes(given: Exchange) -> Iterator[Exchange]:
    """The same answer with one change: of the head, of a value, of an event, or of the order of events."""
    yield replace(given, status=418)
    for name in ("x-request-id", "allow", "content-type"):
        yield replace(given, headers={**given.headers, name: ""})
    if not given.data.endswith(b"\n\n"):
        yield from (replace(given, data=json.dumps(each).encode()) for each in _values(given.document))
        return
    blocks = given.data.split(b"\n\n")[:-1]
    for number, block in enumerate(blocks):
        rest = [*blocks[:number], *blocks[number + 1 :]]
        yield _stream(given, rest)
        yield _stream(given, [*blocks[:number], block, *blocks[number:]])
        yield _stream(given, [*rest, block])
        head, _, data = block.rpartition(b"data: ")
        if data.startswith(b"{"):
            for value in _values(json.loads(data)):
                changed = head + b"data: " + json.dumps(value).encode()
                yield _stream(given, [*blocks[:number], changed, *blocks[number + 1 :]])
    if given.whole is not None:
        yield from (replace(given, whole=each) for each in changes(given.whole))


def _stream(given: Exchange, blocks: list[bytes]) -> Exchange:
    return replace(given, data=b"".join(block + b"\n\n" for block in blocks))


def _values(document: Any) -> Iterator[Any]:
    """The document with one member removed or replaced."""
    for path in list(_paths(document, ())):
        for other in (None, "other", 7, [], _REMOVED):
            changed = copy.deepcopy(document)
            holder = changed
            for step in path[:-1]:
                holder = holder[step]
            if other is _REMOVED:
                del holder[path[-1]]
            else:
                holder[path[-1]] = other
            yield changed


_REMOVED: Final = object()


def _paths(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, each in steps:
        yield from _paths(each, (*path, step))
