"""Tool calls over HTTP are valid for any model output, in both syntaxes and decoding modes, streamed or not."""

import copy
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.requests import DenoisingParams
from diffusion_worker.web.serving_state import Tokenization
from tests.worker.constraint_service.test_service import NoisyNet
from tests.worker.released import END_IDS, released_words
from tests.worker.serving import MODEL, READ, Served, events, serving, toy_model, toy_words

pytestmark = pytest.mark.anyio

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "unit": {"enum": ["C", "F"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, Any] = {"weather": WEATHER, "stop": {"type": "object", "additionalProperties": False}}


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **({"parameters": parameters} if parameters else {})}}


TOOLS = [tool("weather", WEATHER), tool("stop")]
NAMED = {"type": "function", "function": {"name": "weather"}}
MakeModel = Callable[[], tuple[ToyModel, Tokenization]]


def embedded() -> tuple[ToyModel, Tokenization]:
    return NoisyNet(
        vocab_size=toy_words().tokenizer.size, denoising=DenoisingParams(canvas_length=16, steps=4)
    ), toy_words()


def released() -> tuple[ToyModel, Tokenization]:
    tokenization = released_words()
    options: dict[str, Any] = {"vocab_size": tokenization.tokenizer.size, "end_ids": END_IDS}
    return NoisyNet(denoising=DenoisingParams(canvas_length=16, steps=4), **options), tokenization


async def answer(served: Served, stream: bool, **fields: Any) -> tuple[str, list[dict[str, Any]], str]:
    """Text, calls and how it ended."""
    response = await served.ask(stream=stream, **{"max_tokens": 160, "tools": TOOLS, **fields})
    assert response.status_code == 200, response.text
    if not stream:
        [choice] = response.json()["choices"]
        return choice["message"]["content"] or "", choice["message"].get("tool_calls", []), choice["finish_reason"]
    *data, done = events(response.text)
    assert done == "[DONE]"
    choices = [json.loads(each)["choices"][0] for each in data]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", [])]
    assert [call.pop("index") for call in calls] == list(range(len(calls)))
    return text, calls, choices[-1]["finish_reason"]


def check(calls: list[dict[str, Any]]) -> list[str]:
    """Every call is whole and valid; returns their names."""
    assert len({call["id"] for call in calls}) == len(calls)
    for call in calls:
        assert call["type"] == "function"
        jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMAS[call["function"]["name"]])
    return [call["function"]["name"] for call in calls]


@pytest.mark.parametrize("make_model", [embedded, pytest.param(released, marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", [MODEL, pytest.param(READ, marks=pytest.mark.slow)])
async def test_a_random_model_produces_the_requested_calls(make_model: MakeModel, model: str) -> None:
    """A required call is present and calls the named function; otherwise the answer is text or valid calls."""
    async with serving(*make_model()) as served:
        for stream in (False, True):
            for choice in ("required", NAMED):
                text, calls, reason = await answer(served, stream, model=model, tool_choice=choice)
                assert (text, reason, bool(check(calls))) == ("", "tool_calls", True)
                assert choice != NAMED or check(calls) == ["weather"]
            text, calls, reason = await answer(served, stream, model=model)
            assert reason == ("tool_calls" if check(calls) else "stop")
            assert "tool_call" not in text


@pytest.mark.parametrize("model", [MODEL, pytest.param(READ, marks=pytest.mark.slow)])
async def test_calls_of_the_model_are_parsed_unchanged(model: str) -> None:
    """Text followed by several calls; a single one if parallel calls are disabled."""
    call = '<tool_call>{"name": "weather", "arguments": {"city": "Rome", "unit": "C"}}</tool_call>'
    answer_text = f"Let me see. {call}\n{call}"
    async with serving(toy_model(answer_text)) as served:
        text, calls, reason = await answer(served, True, model=model, max_tokens=300)
        assert (text, check(calls), reason) == ("Let me see. ", ["weather"] * 2, "tool_calls")
        assert calls[0]["function"]["arguments"] == '{"city": "Rome", "unit": "C"}'
        text, calls, _ = await answer(served, False, model=model, max_tokens=300, parallel_tool_calls=False)
        assert len(check(calls)) == 1


async def test_a_call_fits_into_max_tokens_or_the_request_is_refused() -> None:
    """Before anything is computed."""
    async with serving(*embedded()) as served:
        _, calls, reason = await answer(served, False, tool_choice=NAMED, max_tokens=80)
        assert (check(calls), reason) == (["weather"], "tool_calls")
        refused = await served.ask(tools=TOOLS, tool_choice=NAMED, max_tokens=40)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "answer_does_not_fit")


@pytest.mark.parametrize("stream", [True, pytest.param(False, marks=pytest.mark.slow)])
async def test_arguments_are_validated_before_they_are_sent(stream: bool) -> None:
    """Each call; after failed attempts with other seeds the response is a server error."""
    distinct = {"type": "object", "properties": {"a": {"type": "array", "items": {"enum": [1]}, "uniqueItems": True}}}
    distinct |= {"required": ["a"], "additionalProperties": False}
    good, bad = [tool("f", distinct)], [tool("f", copy.deepcopy(distinct))]
    bad[0]["function"]["parameters"]["properties"]["a"]["minItems"] = 2
    answer_text = '<tool_call>{"name": "f", "arguments": {"a": [%s]}}</tool_call>'
    async with serving(toy_model(answer_text % "1, 1")) as served:
        refused = await served.ask(tools=bad, tool_choice="required", max_tokens=100, stream=stream)
        assert (refused.status_code, refused.json()["error"]["code"]) == (500, "invalid_output")
    async with serving(toy_model(answer_text % "1")) as served:
        _, calls, _ = await answer(served, stream, tools=good, tool_choice="required")
        assert json.loads(calls[0]["function"]["arguments"]) == {"a": [1]}


async def test_unsupported_parameter_schemas_are_refused_by_name() -> None:
    """The error contains the field, the keyword and its JSON pointer."""
    far = {"type": "object", "properties": {"a": {"type": "integer", "divisibleBy": 3}}}
    async with serving(*embedded()) as served:
        for choice in ("auto", "required"):
            refused = await served.ask(tools=[TOOLS[0], tool("far", far)], tool_choice=choice)
            error = refused.json()["error"]
            assert (refused.status_code, error["param"]) == (400, "tools[1].function.parameters")
            assert "`divisibleBy` at `#/properties/a/divisibleBy`" in error["message"]


async def test_with_tools_and_a_format_text_follows_the_format() -> None:
    """The request has tools and a response format."""
    number = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}
    async with serving(toy_model("seven")) as served:
        text, calls, reason = await answer(served, False, response_format=number)
        assert (calls, reason, type(json.loads(text))) == ([], "stop", int)
        text, calls, _ = await answer(served, False, response_format=number, tool_choice="required")
        assert (text, len(check(calls))) == ("", 1)
