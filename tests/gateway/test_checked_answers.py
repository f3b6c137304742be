"""Whatever a target writes, and however it is cut into chunks: the verdict is that of the whole document, and nothing
of an invalid answer is sent on a route that buffers."""

import asyncio
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.enums import SchemaCheck
from gateway.policy_types import READ_ALONG, Checks
from gateway.upstreams.scripted import ScriptedResponse, says
from tests.gateway.stage import Sent, build_stage
from tests.gateway.validation.any_schema import schemas, values

LAYOUTS: list[dict[str, Any]] = [{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False, "indent": "\t"}]
ROUTES = {
    "buffered": Checks(),
    "repaired": Checks(repair=True),
    "read along": READ_ALONG,
}


def chunks_of(data: st.DataObject, text: str) -> list[str]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)] or [""]


def damaged(data: st.DataObject, text: str) -> str:
    """The text as it is, or cut, or with a character removed, doubled or added."""
    at = data.draw(st.integers(0, max(0, len(text) - 1)))
    added = data.draw(st.sampled_from(list('{}[]",:01-.eE \n\\tnu')))
    ways = [text, text, text[:at], text[:at] + text[at + 1 :], text[:at] + added + text[at:], text + added]
    return data.draw(st.sampled_from(ways))


class Repeated(Exception):  # noqa: N818
    pass


def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise Repeated
    return dict(pairs)


def is_valid(text: str, schema: Any) -> bool:
    def refuse(_: str) -> Any:
        raise ValueError

    try:
        value = json.loads(text, parse_constant=refuse, object_pairs_hook=members)
    except (ValueError, Repeated):
        return False
    return jsonschema.Draft202012Validator(schema).is_valid(value)


def asked(body: dict[str, Any], response: ScriptedResponse, checks: Checks, *, stream: bool) -> tuple[Sent, Any]:
    scene = build_stage(fast=response, route={"checks": checks})
    sent = asyncio.run(scene.send(stream=stream, **body))
    return sent, scene.decision.schema_check


@pytest.mark.slow
@pytest.mark.parametrize("checks", ROUTES.values(), ids=ROUTES)
@given(st.data())
def test_the_verdict_is_that_of_the_whole_document(checks: Checks, data: st.DataObject) -> None:
    schema, value = data.draw(schemas), data.draw(values)
    text = damaged(data, json.dumps(value, **data.draw(st.sampled_from(LAYOUTS))))
    chunks, stream = chunks_of(data, text), data.draw(st.booleans())
    body = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    sent, verdict = asked(body, says(*chunks), checks, stream=stream)
    error = sent.error or sent.broken
    if is_valid(text, schema):
        assert (error, sent.text, verdict) == (None, text, SchemaCheck.VALID)
    elif verdict is SchemaCheck.REPAIRED:
        assert checks.repair
        assert is_valid(sent.text, schema)
    else:
        assert error is not None
        assert verdict is None
        if checks is not READ_ALONG or not stream:
            assert sent.data == []


@pytest.mark.slow
@given(st.data())
def test_a_cut_answer_is_served_if_and_only_if_it_can_be_completed(data: st.DataObject) -> None:
    """Every beginning of a valid document is served; and a stream is judged as a whole response is."""
    schema, value = data.draw(schemas), data.draw(values)
    text = json.dumps(value, **data.draw(st.sampled_from(LAYOUTS)))
    start = text[: data.draw(st.integers(0, len(text)))]
    body = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, "max_tokens": 9}
    found = {}
    for stream in (False, True):
        sent, verdict = asked(body, says(*chunks_of(data, start), finish_reason="length"), Checks(), stream=stream)
        found[stream] = (sent.error is None, verdict, sent.text)
    assert found[False] == found[True]
    if is_valid(text, schema):
        is_whole = is_valid(start, schema)
        try:
            json.loads(start)
        except ValueError:
            assert found[True] == (True, SchemaCheck.TRUNCATED, start)
        else:  # a number may be complete, and as such invalid
            assert found[True][0] is is_whole


TOOL: dict[str, Any] = {"name": "f", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}}
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["f", "f", "g", "h"]),
            "arguments": st.sampled_from(['{"n": 1}', '{"n": "1"}', "{}", "", "[]", "{", '{"n": 1}{}', "null"]),
        }
    ),
    max_size=3,
)
CHOICES: list[Any] = ["auto", "none", "required", {"type": "function", "function": {"name": "g"}}]


def is_allowed(calls: list[dict[str, str]], choice: Any, *, parallel: bool) -> bool:
    allowed = {"g"} if isinstance(choice, dict) else set() if choice == "none" else {"f", "g"}
    if any(call["name"] not in allowed for call in calls) or (len(calls) > 1 and not parallel):
        return False
    if not calls and choice not in ("auto", "none"):
        return False
    valid = {"f": ('{"n": 1}', "{}", ""), "g": ('{"n": 1}', '{"n": "1"}', "{}", "")}
    return all(call["arguments"] in valid[call["name"]] for call in calls)


@given(CALLS, st.sampled_from(CHOICES), st.booleans(), st.data())
def test_calls_have_one_verdict_whole_or_in_fragments(
    calls: list[dict[str, str]], choice: Any, parallel: bool, data: st.DataObject
) -> None:
    body = {
        "tools": [{"type": "function", "function": TOOL}, {"type": "function", "function": {"name": "g"}}],
        "tool_choice": choice,
        "parallel_tool_calls": parallel,
    }
    made = [{"id": str(at), "type": "function", "function": call} for at, call in enumerate(calls)]
    whole = says("" if calls else "text", extra={"tool_calls": made} if calls else {})
    fragments: list[dict[str, Any]] = [] if calls else [{"content": "text"}]
    for at, call in enumerate(calls):
        fragments.append({"tool_calls": [{"index": at, "id": str(at), "function": {"name": call["name"]}}]})
        for chunk in chunks_of(data, call["arguments"]):
            fragments.append({"tool_calls": [{"index": at, "function": {"arguments": chunk}}]})
    found = []
    for response, stream in ((whole, False), (says(deltas=fragments), True)):
        sent, verdict = asked(body, response, Checks(), stream=stream)
        found.append((sent.error is None, verdict))
        assert sent.error is None or sent.data == []
    right = is_allowed(calls, choice, parallel=parallel)
    assert found == [(right, SchemaCheck.VALID if right else None)] * 2
