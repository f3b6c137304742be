"""Responses that may be served: valid, confident, and buffered until both are known."""

from typing import Any

import pytest

from gateway.enums import Reason, SchemaCheck
from gateway.upstreams.scripted import says

pytestmark = pytest.mark.anyio
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "order",
        "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    },
}
GOOD, BAD = '{"n": 1}', '{"m": 1}'


@pytest.mark.parametrize("stream", [False, True])
async def test_an_invalid_response_is_never_sent(stage: Any, stream: bool) -> None:
    scene = stage(fast=says('{"m"', ": 1}"), quality=says('{"n"', ": 1}"))
    sent = await scene.send(response_format=SCHEMA, stream=stream)
    assert sent.text == GOOD
    assert b'\\"m' not in b"".join(sent.data)
    assert scene.attempts == {"fast": "invalid_output", "quality": "ok"}
    assert scene.decision.attempts[0].detail == "required at #/properties/*, byte 7"
    assert scene.decision.schema_check is SchemaCheck.VALID


async def test_headers_of_a_buffered_stream_name_the_target_that_sends_the_bytes(stage: Any) -> None:
    scene = stage(fast=says(BAD), quality=says(GOOD))
    sent = await scene.send(response_format=SCHEMA, stream=True)
    assert sent.headers.target == "quality"
    assert sent.headers.fallback is Reason.INVALID_OUTPUT
    assert sent.headers.schema_check is SchemaCheck.VALID


async def test_a_buffered_stream_is_relayed_chunk_by_chunk(stage: Any) -> None:
    scene = stage(fast=says('{"n"', ": ", "1}"))
    sent = await scene.send(response_format=SCHEMA, stream=True)
    assert sent.texts == ['{"n"', ": ", "1}", ""]


async def test_a_stream_that_can_no_longer_be_valid_fails_before_its_end(stage: Any) -> None:
    scene = stage(fast=says("Sure", ", here you are: ", GOOD), quality=says(GOOD))
    sent = await scene.send(response_format=SCHEMA, stream=True)
    assert sent.text == GOOD
    assert scene.targets["fast"].left == 1


async def test_arguments_of_a_tool_call_are_checked(stage: Any) -> None:
    def calls(arguments: str) -> dict[str, Any]:
        return {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}

    tools = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA["json_schema"]["schema"]}}]
    scene = stage(fast=says(extra=calls(BAD)), quality=says(extra=calls(GOOD)))
    await scene.send(tools=tools)
    assert scene.attempts == {"fast": "invalid_output", "quality": "ok"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_with_low_confidence_falls_back(stage: Any, stream: bool) -> None:
    scene = stage(fast=says("eh", confidence=0.3), quality=says("hi"), route={"min_confidence": 0.8})
    sent = await scene.send(stream=stream)
    assert sent.text == "hi"
    assert scene.attempts == {"fast": "low_confidence", "quality": "ok"}
    assert scene.decision.attempts[0].detail == "confidence 0.300 < 0.8"


async def test_a_missing_confidence_counts_as_low_confidence(stage: Any) -> None:
    scene = stage(fast=says("eh"), quality=says("hi"), route={"min_confidence": 0.8})
    await scene.send()
    assert scene.attempts == {"fast": "low_confidence", "quality": "ok"}


async def test_enough_confidence_is_served(stage: Any) -> None:
    scene = stage(fast=says("hi", confidence=0.9), route={"min_confidence": 0.8})
    assert (await scene.send()).text == "hi"
