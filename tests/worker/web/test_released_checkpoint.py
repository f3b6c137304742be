"""Thought, tool calls and their history over HTTP, with control tokens like those of the released checkpoint."""

import json
from typing import Any

import pytest

from tests.worker.released import END_IDS, released_net, released_words
from tests.worker.serving import MODEL, READ, Served, events, serving, toy_model

pytestmark = pytest.mark.anyio

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '<|tool_call>call:weather{city:<|"|>São Paulo<|"|>}<tool_call|>'
THOUGHT = "<|channel>thought\nwhat could it be<channel|>"
LISBON = '<|tool_call>call:weather{city:<|"|>Lisbon<|"|>}<tool_call|>'


async def message(served: Served, **fields: Any) -> tuple[dict[str, Any], str]:
    """The message and how it ended; streamed and whole must agree on both."""
    fields = {"max_tokens": 300, **fields}
    whole = (await served.ask(**fields)).json()["choices"][0]
    streamed: dict[str, Any] = {"role": "", "content": "", "reasoning_content": "", "tool_calls": []}
    for data in events((await served.ask(**fields, stream=True)).text)[:-1]:
        choice = json.loads(data)["choices"][0]
        for name, part in choice["delta"].items():
            streamed[name] += part
    assert streamed["content"] == (whole["message"]["content"] or "")
    assert streamed["reasoning_content"] == whole["message"].get("reasoning_content", "")
    calls = [call["function"] for call in whole["message"].get("tool_calls", [])]
    assert [call["function"] for call in streamed["tool_calls"]] == calls
    assert [call["index"] for call in streamed["tool_calls"]] == list(range(len(calls)))
    assert choice["finish_reason"] == whole["finish_reason"]
    return whole["message"], whole["finish_reason"]


@pytest.mark.parametrize("model", [MODEL, READ])
async def test_thought_is_returned_in_its_own_field(model: str) -> None:
    """Over several blocks in both decoding modes; counted as reasoning and completion tokens."""
    async with serving(released_net(f"{THOUGHT}a cat"), released_words()) as served:
        answer, reason = await message(served, model=model)
        assert answer == {
            "role": "assistant",
            "content": "a cat",
            "refusal": None,
            "reasoning_content": "what could it be",
        }
        assert reason == "stop"
        usage = (await served.ask(model=model)).json()["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == len("what could it be")
    assert usage["completion_tokens"] == len("what could it be") + len("a cat") + len("thought\n") + 3


async def test_an_empty_thought_is_not_returned() -> None:
    """The checkpoint writes one if it does not think."""
    async with serving(released_net("<|channel>thought\n<channel|>a cat"), released_words()) as served:
        answer, _ = await message(served)
    assert answer == {"role": "assistant", "content": "a cat", "refusal": None}


async def test_an_answer_with_only_a_thought_has_no_content() -> None:
    """The finish reason is `length`."""
    async with serving(released_net(f"{THOUGHT}a cat"), released_words()) as served:
        answer, reason = await message(served, max_tokens=20)
    assert (answer["content"], reason) == ("", "length")
    assert "what could it be".startswith(answer["reasoning_content"])


@pytest.mark.parametrize("end", ["", "<|tool_response>", "<turn|>more", "<eos>more"])
async def test_calls_are_parsed_and_any_end_token_ends_the_turn(end: str) -> None:
    """Several in one answer, each with its own id."""
    async with serving(released_net(THOUGHT + CALL + LISBON + end), released_words()) as served:
        answer, reason = await message(served, tools=[TOOL])
        info = served.engine.info
    assert info is not None
    assert info.end_ids == END_IDS
    assert (answer["content"], answer["reasoning_content"], reason) == (None, "what could it be", "tool_calls")
    assert [json.loads(call["function"]["arguments"]) for call in answer["tool_calls"]] == [
        {"city": "São Paulo"},
        {"city": "Lisbon"},
    ]
    assert len({call["id"] for call in answer["tool_calls"]}) == 2


async def test_without_parallel_calls_there_is_one_call() -> None:
    async with serving(released_net(CALL + LISBON), released_words()) as served:
        answer, reason = await message(served, tools=[TOOL], parallel_tool_calls=False)
    assert ([call["function"]["name"] for call in answer["tool_calls"]], reason) == (["weather"], "tool_calls")


@pytest.mark.parametrize("model", [MODEL, pytest.param(READ, marks=pytest.mark.slow)])
async def test_the_constraint_prevents_malformed_calls(model: str) -> None:
    """With a model that prefers a known malformed call."""
    async with serving(released_net("<|tool_call>call:weather(city=1)<tool_call|>"), released_words()) as served:
        answer, reason = await message(served, tools=[TOOL], tool_choice="required", model=model)
    [call] = answer["tool_calls"]
    assert (answer["content"], reason, call["function"]["name"]) == (None, "tool_calls", "weather")
    assert isinstance(json.loads(call["function"]["arguments"])["city"], str)


async def test_stop_strings_apply_to_text_only() -> None:
    """Not to thoughts and tool calls."""
    async with serving(released_net(f"{THOUGHT}so be it{CALL}"), released_words()) as served:
        stopped, reason = await message(served, stop="be", tools=[TOOL])
        assert (stopped["reasoning_content"], stopped["content"], reason) == ("what could it be", "so ", "stop")
        answer, reason = await message(served, stop="Paulo", tools=[TOOL])
        assert (answer["content"], len(answer["tool_calls"]), reason) == ("so be it", 1, "tool_calls")


@pytest.mark.parametrize("choice", [{}, {"tools": [TOOL], "tool_choice": "none"}])
async def test_without_tools_nothing_is_called(choice: dict[str, Any]) -> None:
    """The prompt contains no tools."""
    shown: list[str] = []
    model = released_net(lambda prompt: (shown.append(prompt), CALL)[1])
    async with serving(model, released_words()) as served:
        answer, reason = await message(served, **choice)
    assert "tool_calls" not in answer
    assert reason == "stop"
    assert not any("weather" in prompt for prompt in shown)


async def test_tools_and_call_history_are_rendered_in_the_models_syntax() -> None:
    """An earlier call and its result, as clients send them back."""
    seen: list[str] = []
    model = released_net(lambda prompt: (seen.append(prompt), "sunny" if "response:" in prompt else CALL)[1])
    async with serving(model, released_words()) as served:
        question = [{"role": "user", "content": "weather?"}]
        answer = (await message(served, messages=question, tools=[TOOL]))[0]
        result = {"role": "tool", "tool_call_id": answer["tool_calls"][0]["id"], "content": "22 degrees"}
        last, reason = await message(served, messages=[*question, answer, result], tools=[TOOL])
    assert (last["content"], reason) == ("sunny", "stop")
    assert '<|tool>declaration:weather{description:<|"|><|"|>,parameters:{' in seen[-1]
    assert seen[-1].endswith(f'{CALL}<|tool_response>response:weather{{value:<|"|>22 degrees<|"|>}}<tool_response|>')


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({}, False),
        ({"reasoning_effort": "high"}, True),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
    ],
)
async def test_thinking_is_switched_by_the_template(fields: dict[str, Any], thinks: bool) -> None:
    model = released_net(lambda prompt: "yes" if "<|think|>" in prompt else "no")
    async with serving(model, released_words()) as served:
        answer, _ = await message(served, **fields)
    assert answer["content"] == ("yes" if thinks else "no")


async def test_capabilities_of_a_checkpoint_are_published() -> None:
    """Tools with a grade, independent of the template."""
    for model, words in ((released_net("x"), released_words()), (toy_model(), None)):
        async with serving(model, words) as served:
            for card in (await served.client.get("/v1/models")).json()["data"]:
                capabilities = card["twolane"]["capabilities"]
                assert (capabilities["tools"], capabilities["tool_choice"]) == ("guaranteed", True)


@pytest.mark.parametrize("fields", [{"reasoning_effort": "low"}, {"chat_template_kwargs": {"enable_thinking": True}}])
async def test_unsupported_features_of_a_checkpoint_are_refused_by_name(fields: dict[str, Any]) -> None:
    """The embedded checkpoint has no thought channel."""
    async with serving(toy_model()) as served:
        answer = await served.ask(**fields)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(fields)))


async def test_images_are_refused_by_name() -> None:
    """The checkpoint supports images, the worker does not."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    async with serving(released_net("x"), released_words()) as served:
        answer = await served.ask(messages=[{"role": "user", "content": [image]}])
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[0].content[0].image_url"
