"""Libraries that build agents and typed answers on OpenAI's API, as released and with their defaults, before a server
that has only chat completions."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environments import command
from tests.clients.test_openai_clients import answers_of
from tests.clients.weather_model import OBJECT, RESULTS, SENTENCE, VECTORS, WeatherModel, policy
from tests.gateway.serving import fake_server, real_gateway

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(900)]
STEP_TOKENS = 12  # of each answer of the server
LOOP = {"text": SENTENCE, "results": RESULTS}
SAID = {"text": SENTENCE}
TYPED = {"object": OBJECT}
BOTH = ("responses", "chat")
JSON_MODES = ("TOOLS", "TOOLS_STRICT", "JSON", "MD_JSON", "JSON_SCHEMA", "RESPONSES_TOOLS")


def each(*names: str, **common: Any) -> list[dict[str, Any]]:
    return [{"how": name, **common} for name in names]


async def compare(client: str, expected: list[tuple[dict[str, Any], Any]], folder: Path) -> WeatherModel:
    """Every case with what the library is to see."""
    line = await asyncio.to_thread(command, client)
    model = WeatherModel()
    async with (
        fake_server(model.answer) as target,
        real_gateway(folder, policy(target.url), responses_bytes=1_000_000) as gateway,
    ):
        seen = await answers_of(line, gateway.url, [case for case, _ in expected])
    for answer in seen:
        if "error" in answer:
            assert "Model 'unknown' not found" in answer.pop("text")
    assert list(zip([case for case, _ in expected], seen, strict=True)) == expected
    return model


async def test_the_agents_sdk_runs_tools_handoffs_and_typed_answers(tmp_path: Path) -> None:
    three, one = {"tokens": 3 * STEP_TOKENS}, {"tokens": STEP_TOKENS}
    expected: list[tuple[dict[str, Any], Any]] = []
    for api in BOTH:
        streamed = three if api == "responses" else {"tokens": 0}  # the SDK does not ask chats for their usage
        expected += [
            ({"how": "run", "api": api}, {**LOOP, **three}),
            ({"how": "stream", "api": api}, {**LOOP, **streamed, "streamed": SENTENCE}),
            ({"how": "object", "api": api}, TYPED),
            ({"how": "handoff", "api": api}, {"text": SENTENCE, "agent": "Forecaster"}),
            ({"how": "again", "api": api}, {"text": SENTENCE, "results": [], **one}),
        ]
    expected.append(({"how": "run", "api": "responses", "model": "unknown"}, {"error": "NotFoundError"}))
    expected.append(({"how": "chained", "api": "responses"}, {"text": SENTENCE, "results": [], **one}))
    model = await compare("openai_agents", expected, tmp_path)
    assert [message["role"] for message in model.bodies[-1]["messages"] if message["role"] == "user"] == ["user"] * 2


async def test_pydantic_ai_runs_its_default_models(tmp_path: Path) -> None:
    three, one = {"tokens": 3 * STEP_TOKENS}, {"tokens": STEP_TOKENS}
    kinds = each("tool", "native", "prompted")
    expected: list[tuple[dict[str, Any], Any]] = []
    for api in ("default", "chat"):
        expected += [({"how": how, "api": api}, {**LOOP, **three}) for how in ("run", "stream")]
        expected += [({"how": "again", "api": api}, {"text": SENTENCE, "results": [], **one})]
        expected += [
            ({**kind, "api": api, "is_streamed": is_streamed}, TYPED) for kind in kinds for is_streamed in (False, True)
        ]
    expected += [({"how": "chained", "api": "default"}, {"text": SENTENCE, "results": [], **one})]
    model = await compare("pydantic_ai", expected, tmp_path)
    assert [message["role"] for message in model.bodies[-1]["messages"]].count("tool") == len(RESULTS)


async def test_instructor_reads_typed_answers_in_every_mode(tmp_path: Path) -> None:
    expected: list[tuple[dict[str, Any], Any]] = []
    for mode in JSON_MODES:
        expected += [({"how": how, "mode": mode}, TYPED) for how in ("create", "retry")]
        expected += [({"how": "partial", "mode": mode}, {**TYPED, "is_growing": True})]
        expected += [({"how": "iterable", "mode": mode}, {"object": [OBJECT, OBJECT]})]
    await compare("instructor", expected, tmp_path)


async def test_langchain_s_models_for_openai_work_with_both_apis(tmp_path: Path) -> None:
    expected: list[tuple[dict[str, Any], Any]] = [({"how": "complete"}, SAID), ({"how": "embed"}, {"vectors": VECTORS})]
    for api in BOTH:
        expected += [({"how": how, "api": api}, {**SAID, "tokens": STEP_TOKENS}) for how in ("invoke", "stream")]
        expected += [({"how": "tools", "api": api}, LOOP)]
        expected += [({"how": how, "api": api}, TYPED) for how in ("json_schema", "function_calling", "json_mode")]
        expected += [({"how": "unknown", "api": api}, {"error": "OpenAIModelNotFoundError"})]
    expected += [({"how": "chained", "api": "responses"}, LOOP)]
    model = await compare("langchain", expected, tmp_path)
    assert [message["role"] for message in model.bodies[-1]["messages"]].count("tool") == len(RESULTS)


async def test_llamaindex_s_models_for_openai_and_servers_like_it_work(tmp_path: Path) -> None:
    expected: list[tuple[dict[str, Any], Any]] = []
    for api in ("like", *BOTH):
        expected += [({"how": how, "api": api}, SAID) for how in ("chat", "stream", "complete")]
        expected += [({"how": "tools", "api": api}, LOOP), ({"how": "object", "api": api}, TYPED)]
    expected += [({"how": how, "api": "text"}, SAID) for how in ("chat", "complete", "stream")]
    await compare("llama_index", expected, tmp_path)


async def test_litellm_s_sdk_uses_the_gateway_as_openai_and_as_anthropic(tmp_path: Path) -> None:
    told = {**SAID, "tokens": STEP_TOKENS}
    expected = [
        ({"how": "chat"}, told),
        ({"how": "stream"}, SAID),
        ({"how": "tools"}, LOOP),
        ({"how": "object"}, TYPED),
        ({"how": "text"}, SAID),
        ({"how": "responses"}, told),
        ({"how": "responses_stream"}, SAID),
        ({"how": "embed"}, {"vectors": VECTORS}),
        ({"how": "messages"}, told),
        ({"how": "messages_stream"}, SAID),
        ({"how": "unknown"}, {"error": "NotFoundError"}),
    ]
    await compare("litellm_python", expected, tmp_path)
