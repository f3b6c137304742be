"""The AI SDK, as released, runs a loop of several steps with a tool against the responses API, with its defaults.

Its calls are repeated in the next step, and its reasoning is referred to by its id unless `store` is false.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.clients.environments import command
from tests.clients.test_openai_clients import answers_of
from tests.gateway.serving import fake_server, one_lane, real_gateway
from tests.gateway.test_responses import Model, call

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(900)]
CITIES = ("Rome", "Oslo")
THOUGHT = {"reasoning_content": "Both are needed."}


def step_of(body: dict[str, Any]) -> dict[str, Any]:
    """What the model says next: a call for each city, then the answer."""
    if "response_format" in body:
        return {"content": '{"city": "Rome", "degrees": 20}'}
    done = sum(message["role"] == "tool" for message in body["messages"])
    if done < len(CITIES):
        return {**THOUGHT, "tool_calls": [call("weather", f'{{"city": "{CITIES[done]}"}}', f"call_{done}")]}
    return {"content": "Rome is warmer."}


async def test_the_ai_sdk_runs_its_loop_of_steps_with_its_defaults(tmp_path: Path) -> None:
    line = await asyncio.to_thread(command, "ai_sdk")
    model = Model()

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        model.messages = [step_of(body)]
        return await model.answer(request, body)

    cases = [{"how": how, "openai": options} for how in ("generate", "stream") for options in ({}, {"store": False})]
    async with fake_server(answer) as target, real_gateway(tmp_path, one_lane(target.url)) as gateway:
        seen = await answers_of(line, gateway.url, [*cases, {"how": "object"}])
        # Through a second gateway, for which the first is a target with responses, the SDK sees the same.
        (tmp_path / "passing").mkdir()
        policy = json.loads(one_lane(gateway.url))
        policy["targets"]["only"] |= {"responses": True, "model": "auto"}
        async with real_gateway(tmp_path / "passing", json.dumps(policy)) as passing:
            assert await answers_of(line, passing.url, [*cases, {"how": "object"}]) == seen
    results = [f"sun in {city}" for city in CITIES]
    expected = {"text": "Rome is warmer.", "finished": "stop", "results": results, "tokens": 36}
    assert seen == [expected] * len(cases) + [{"object": {"city": "Rome", "degrees": 20}}]
