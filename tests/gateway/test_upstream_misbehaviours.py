"""Whatever a target does, the client gets a right answer.

What OpenAI's client reads to a good end directly, it reads to the same end through the gateway. Everything else falls
back, or ends with an error event. Afterwards the target still serves.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import openai
import pytest

from tests.gateway.serving import real_gateway
from tests.scripted_server import scripted_server
from tests.upstream_misbehaviours import (
    CALL,
    CUT,
    EMPTY,
    HEALTHY,
    INCOMPLETE,
    MISBEHAVE,
    OK,
    TEXT,
    Case,
    cases,
    script_of,
)

pytestmark = pytest.mark.anyio
CASES = cases()


def params(chosen: list[Case]) -> list[Any]:
    return [pytest.param(case, id=f"{case.name}-{'stream' if case.stream else 'whole'}") for case in chosen]


class Answer(NamedTuple):
    """What a client sees: text, tool calls, and whether there is a finish reason; `error` if the end is an error."""

    text: str
    calls: list[tuple[str, str]]
    finished: bool
    error: str = ""


def policy(url: str) -> str:
    """One route per case, with a good target behind it."""
    common = {"kind": "openai", "engine": "openai", "url": url, "location": "external", "idle_s": 1}
    names = sorted({case.name for case in CASES})
    targets: dict[str, Any] = {f"t-{name}": {**common, "model": name} for name in names}
    targets["good"] = {**common, "url": f"{url}/good", "model": "good"}  # not the same server, as far as its URL tells
    routes: list[dict[str, Any]] = []
    for name in names:
        targeted = {"use": f"t-{name}", "fall_back": ["good"], "deadline_ms": 60_000}
        attempt_ms = 400 if hangs(name) else 30_000
        routes.append({"name": name, "when": {"model": name}, "attempt_ms": attempt_ms, **targeted})
        if hangs(name):
            patient = {"when": {"model": patiently(name)}, "attempt_ms": 30_000}
            routes.append({"name": patiently(name), **patient, **targeted})
    routes.append({"name": "default", "use": "good"})
    aliases = [*names, *(patiently(name) for name in names if hangs(name))]
    return json.dumps({"version": 1, "aliases": aliases, "targets": targets, "routes": routes})


def hangs(name: str) -> bool:
    return "hangs" in name


def patiently(name: str) -> str:
    """A model whose route leads to the same target and waits: on a busy machine a healthy answer may take a second."""
    return f"patiently-{name}" if hangs(name) else name


@pytest.fixture(scope="module", params=["aiohttp", "pooled"])
async def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """A misbehaving upstream, a gateway before it with either HTTP client, and a client for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.upstreams.http._TRAILER_S", 0.2)
        patch.setattr("gateway.upstreams.http._ERROR_BODY_S", 0.2)
        folder = tmp_path_factory.mktemp("gateway")
        async with (
            scripted_server(script_of(CASES)) as upstream,
            real_gateway(folder, policy(upstream.url), http_client=request.param) as gateway,
            client(upstream.url) as direct,
            client(gateway.url) as through,
        ):
            yield SimpleNamespace(gateway=gateway, direct=direct, through=through)


def client(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, timeout=60)


async def ask(asked: openai.AsyncOpenAI, case: Case, text: str = MISBEHAVE) -> tuple[Answer, dict[str, str]]:
    """The answer, and the headers of the response."""
    messages: Any = [{"role": "user", "content": text}]
    raw = await asked.chat.completions.with_raw_response.create(model=case.name, messages=messages, stream=case.stream)
    parsed: Any = raw.parse()
    answer = await streamed(parsed) if case.stream else said(parsed.choices[0].message, parsed.choices[0].finish_reason)
    return answer, dict(raw.headers)


def said(message: Any, finish: Any) -> Answer:
    calls = [called(each.function) for each in message.tool_calls or ()]
    if message.function_call:
        calls.append(called(message.function_call))
    return Answer(text_of(message.content), calls, bool(finish))


def called(function: Any) -> tuple[str, str]:
    given = function.arguments
    return function.name, given if isinstance(given, str) else json.dumps(given, separators=(",", ":"))


def text_of(content: Any) -> str:
    """Directly, text in parts reaches the application as parts."""
    return "".join(part["text"] for part in content) if isinstance(content, list) else content or ""


async def streamed(stream: Any) -> Answer:
    """Reads the first choice. Fragments of calls are joined in order."""
    text, calls, finished = "", [], False
    try:
        async for chunk in stream:
            for choice in (chunk and chunk.choices) or ():
                if choice.index:
                    continue
                text += text_of(choice.delta.content)
                finished = finished or bool(choice.finish_reason)
                for call in (*(choice.delta.tool_calls or ()), choice.delta):
                    function = call.function_call if call is choice.delta else call.function
                    if function and function.name:
                        calls.append(["", ""])
                    if function:
                        calls[-1][0] += function.name or ""
                        calls[-1][1] += called(function)[1] if function.arguments is not None else ""
    except openai.APIError as error:
        return Answer(text, [(name, given) for name, given in calls], finished, error.code or "?")
    return Answer(text, [(name, given) for name, given in calls], finished)


def expected(case: Case) -> Answer:
    if case.calls:
        return Answer("", [CALL], finished=True)
    return Answer("" if case.right == EMPTY else TEXT, [], finished=case.right != INCOMPLETE)


@pytest.mark.parametrize("case", params([case for case in CASES if case.direct]))
async def test_openai_s_client_reads_the_same_answer_directly_and_through_the_gateway(world: Any, case: Case) -> None:
    (direct, _), (through, headers) = await asyncio.gather(ask(world.direct, case), ask(world.through, case))
    assert direct == through == expected(case)
    assert headers["x-twolane-attempts"] == f"t-{case.name}=ok"


@pytest.mark.parametrize("case", params([case for case in CASES if not case.direct]))
async def test_every_other_answer_is_read_or_replaced_and_the_target_still_serves(world: Any, case: Case) -> None:
    answer, headers = await ask(world.through, case)
    attempts = headers["x-twolane-attempts"]
    if case.right in (OK, EMPTY, INCOMPLETE):
        assert answer == expected(case)
        is_known = not case.stream  # the headers of a stream leave before its end
        assert attempts == f"t-{case.name}={'incomplete' if is_known and case.right == INCOMPLETE else 'ok'}"
    elif case.right == CUT:
        assert (answer.text[:5], answer.error, attempts) == (TEXT[:5], "upstream_error", f"t-{case.name}=ok")
    else:
        assert (answer.text, answer.finished, answer.error) == (HEALTHY, True, "")
        assert attempts == f"t-{case.name}={case.right},good=ok"
    healthy, headers = await ask(world.through, replace(case, name=patiently(case.name)), "how are you")
    assert (healthy.text, headers["x-twolane-attempts"]) == (HEALTHY, f"t-{case.name}=ok")


@pytest.mark.slow
async def test_an_answer_without_a_finish_reason_is_not_counted_as_good(world: Any) -> None:
    case = next(case for case in CASES if case.right == INCOMPLETE and case.stream)
    await ask(world.through, case)
    page = await world.gateway.metrics()
    assert 'outcome="incomplete",' in page.replace(" ", "") or 'outcome="incomplete"' in page


def test_there_are_many_misbehaviours() -> None:
    assert len({case.name for case in CASES if not case.direct}) >= 48
