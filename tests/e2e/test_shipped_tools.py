"""The bundled checkpoint, which was not trained on tools, makes valid tool calls."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from diffusion_worker.models.loader import LoadOptions, load
from tests.worker.serving import listening

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1, "maxLength": 20},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["C", "F"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
NOTE = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}},
    "required": ["text"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, Any] = {"weather": WEATHER, "note": NOTE}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": schema, "strict": True}}
    for name, schema in SCHEMAS.items()
]
NAMED: Any = {"type": "function", "function": {"name": "note"}}
ASKED: Any = [{"role": "user", "content": "Extract the order as JSON: hi, i need 3 red lamp for anna on monday"}]


@pytest.fixture(scope="module")
async def client(anyio_backend: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """One worker for all tests, which do not affect each other."""
    model: Any = load(ROOT / "checkpoints" / "twolane-tiny", LoadOptions(threads=1))
    async with listening(model) as worker:
        url, direct = f"{worker.client.base_url}/v1", openai.DefaultAsyncHttpx2Client(trust_env=False)
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=direct) as it:
            yield it


def names(calls: Any) -> list[str]:
    """The names of the called functions, each with valid arguments."""
    for call in calls or []:
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    return [call.function.name for call in calls or []]


@pytest.mark.parametrize("model", ["diffusion", "diffusion:autoregressive"])
async def test_calls_of_the_bundled_checkpoint_are_valid(client: openai.AsyncOpenAI, model: str) -> None:
    """Whole and streamed, with several seeds; `auto` gives text or a call."""
    for seed in range(2):
        options: dict[str, Any] = {"model": model, "tools": TOOLS, "messages": ASKED, "seed": seed, "temperature": 1.5}
        for choice in ("required", NAMED, "auto"):
            budget = 250 if choice == "auto" else 120  # a call closes within any; a text needs the longer one
            options |= {"tool_choice": choice, "max_tokens": budget, "parallel_tool_calls": False}
            message = (await client.chat.completions.create(**options)).choices[0].message
            called = names(message.tool_calls)
            async with client.chat.completions.stream(**options) as stream:
                completion = await stream.get_final_completion()
            streamed = completion.choices[0]
            assert names(streamed.message.tool_calls) == called
            assert streamed.finish_reason == ("tool_calls" if called else "stop")
            assert len(called) == 1 or choice == "auto"
            assert choice is not NAMED or called == ["note"]
            assert "tool_call" not in (message.content or "")


async def test_a_conversation_continues_after_a_call(client: openai.AsyncOpenAI) -> None:
    """The client sends the call back unchanged, with the tool's result."""
    first = await client.chat.completions.create(
        model="diffusion", tools=TOOLS, tool_choice=NAMED, messages=ASKED, max_tokens=250
    )
    [call] = first.choices[0].message.tool_calls or []
    turns: Any = [*ASKED, first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
    last = await client.chat.completions.create(model="diffusion", tools=TOOLS, messages=turns, max_tokens=250)
    assert last.choices[0].finish_reason in ("stop", "tool_calls", "length")
    assert last.usage is not None
    assert first.usage is not None
    assert last.usage.prompt_tokens > first.usage.prompt_tokens
