"""The official client uses tools with a worker whose tokenizer and template are those of the released model."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.worker.released import released_net, released_words
from tests.worker.serving import MODEL, listening

pytestmark = pytest.mark.anyio

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '<|tool_call>call:weather{city:<|"|>São Paulo<|"|>}<tool_call|><|tool_response>'


def reply(prompt: str) -> str:
    """Call the tool first, and answer once its result is present."""
    thought = "<|channel>thought\nlet me see<channel|>" if "<|think|>" in prompt else "<|channel>thought\n<channel|>"
    return thought + ("It is 22 degrees." if "22 degrees" in prompt else CALL)


@pytest.fixture(scope="module")
async def client(anyio_backend: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """One worker for all tests, which do not affect each other."""
    async with listening(released_net(reply), released_words()) as served:
        direct = openai.DefaultAsyncHttpx2Client(trust_env=False)
        url = f"{served.client.base_url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=direct) as it:
            yield it


async def test_a_tool_is_called_and_its_result_is_used(client: openai.AsyncOpenAI) -> None:
    """The client sends its own response objects back."""
    turns: list[Any] = [{"role": "user", "content": "What is the weather in São Paulo?"}]
    options: dict[str, Any] = {"model": MODEL, "tools": [TOOL], "max_tokens": 300, "reasoning_effort": "high"}
    first = (await client.chat.completions.create(messages=turns, **options)).choices[0]
    assert first.finish_reason == "tool_calls"
    assert first.message.content is None
    assert first.message.model_extra == {"reasoning_content": "let me see"}
    assert first.message.tool_calls is not None
    [call] = first.message.tool_calls
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "São Paulo"}
    turns += [first.message, {"role": "tool", "tool_call_id": call.id, "content": "22 degrees"}]
    last = await client.chat.completions.create(messages=turns, **options)
    assert (last.choices[0].message.content, last.choices[0].finish_reason) == ("It is 22 degrees.", "stop")
    assert last.usage is not None
    assert last.usage.completion_tokens_details is not None
    assert last.usage.completion_tokens_details.reasoning_tokens == len("let me see")


async def test_a_streamed_call_is_assembled_by_the_client(client: openai.AsyncOpenAI) -> None:
    """The client's stream helper accepts the events."""
    closed = {**TOOL["function"]["parameters"], "additionalProperties": False}
    strict: Any = {"type": "function", "function": {**TOOL["function"], "strict": True, "parameters": closed}}
    async with client.chat.completions.stream(
        model=MODEL, tools=[strict], max_tokens=300, messages=[{"role": "user", "content": "weather?"}]
    ) as stream:
        kinds = [event.type async for event in stream]
        completion = await stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    [call] = completion.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments) == {"city": "São Paulo"}
    assert completion.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("model", [MODEL, f"{MODEL}:autoregressive"])
async def test_a_required_call_is_made(client: openai.AsyncOpenAI, model: str) -> None:
    """Also if the model would generate text, and by name."""
    talk: list[Any] = [{"role": "user", "content": "weather? 22 degrees"}]
    choices: list[Any] = ["required", {"type": "function", "function": {"name": "weather"}}]
    for choice in choices:
        answer = await client.chat.completions.create(
            model=model, tools=[TOOL], tool_choice=choice, max_tokens=120, messages=talk
        )
        [call] = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert isinstance(json.loads(call.function.arguments)["city"], str)
        assert answer.choices[0].finish_reason == "tool_calls"


async def test_an_unsupported_schema_is_a_request_error(client: openai.AsyncOpenAI) -> None:
    """The error names field, keyword and pointer."""
    far: Any = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"divisibleBy": 3}}}}}
    with pytest.raises(openai.BadRequestError, match="#/properties/a/divisibleBy") as refused:
        await client.chat.completions.create(
            model=MODEL, tools=[TOOL, far], messages=[{"role": "user", "content": "weather?"}]
        )
    assert refused.value.param == "tools[1].function.parameters"
