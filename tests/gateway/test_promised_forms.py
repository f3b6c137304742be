"""The form that a request asks for is checked on every route, and output that runs away or is cut off is recognised."""

import json
from typing import Any

import pytest

from gateway.enums import Outcome, RunawayScope, SchemaCheck
from gateway.errors import InvalidOutput, Unsupported
from gateway.policy_types import READ_ALONG, Checks
from gateway.routing.engine_profiles import ENGINES
from gateway.upstreams.scripted import says

pytestmark = pytest.mark.anyio
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
GOOD = says('{"n": 1}')
WRONG = says('{"n": "1"}')
NO_VALIDATE: Any = {"checks": READ_ALONG}
OFF: Any = {"checks": None}
FULL: Any = {"checks": Checks()}
FUNCTION = {"name": "f", "parameters": SCHEMA}
TOOL = {"type": "function", "function": FUNCTION}
OTHER = {"type": "function", "function": {"name": "g"}}
CUSTOM = {"type": "custom", "custom": {"name": "patch"}}


def calls(*found: tuple[str, str], text: str = "") -> Any:
    """A whole response that calls functions, or custom tools (without braces around the arguments)."""
    made = [
        {"id": str(at), "type": "function", "function": {"name": name, "arguments": arguments}}
        if arguments.startswith("{")
        else {"id": str(at), "type": "custom", "custom": {"name": name, "input": arguments}}
        for at, (name, arguments) in enumerate(found)
    ]
    return says(text, extra={"content": text or None, "tool_calls": made}, finish_reason="tool_calls")


FORMS: list[Any] = [
    ({"response_format": FORMAT}, WRONG),
    ({"response_format": FORMAT, "tools": [TOOL]}, WRONG),
    ({"response_format": FORMAT, "metadata": {"task": "chat"}}, says("Sure!")),
    ({"response_format": {"type": "json_object"}}, says("[1]")),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, says("{}")),
    ({"structured_outputs": {"regex": "[a-z]+"}}, says("ABC")),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, says("maybe")),
    ({"structured_outputs": {"template": "On {{day}}."}}, says("At noon.")),
    ({"guided_json": SCHEMA}, WRONG),
    ({"guided_regex": "[a-z]+"}, says("ABC")),
    ({"guided_choice": ["yes", "no"]}, says("maybe")),
    ({"regex": "[a-z]+"}, says("ABC")),
    ({"format": SCHEMA}, WRONG),
    ({"extra_body": {"guided_json": SCHEMA}}, WRONG),
    ({"extra_body": {"guided_regex": "[a-z]+"}}, says("ABC")),
    ({"nvext": {"guided_json": SCHEMA}}, WRONG),
    ({"nvext": {"guided_choice": ["yes", "no"]}}, says("maybe")),
    ({"json_schema": SCHEMA}, WRONG),
    ({"structured_outputs": {"json": SCHEMA}}, WRONG),
    ({"structured_outputs": {"json_object": True}}, says("[1]")),
    ({"format": "json"}, says("[1]")),
    ({"response_format": {"type": "regex", "pattern": "[a-z]+"}}, says("ABC")),
    ({"tools": [TOOL], "tool_choice": "required"}, says("I will not call.")),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}, says("no")),
    ({"tools": [TOOL, OTHER], "tool_choice": {"type": "function", "function": {"name": "f"}}}, calls(("g", "{}"))),
    ({"tools": [TOOL], "tool_choice": "none"}, calls(("f", '{"n": 1}'))),
    ({"tools": [TOOL]}, calls(("f", "{}"))),
    ({"tools": [TOOL]}, calls(("h", "{}"))),
    ({"tools": [TOOL, OTHER], "parallel_tool_calls": False}, calls(("g", "{}"), ("g", "{}"))),
    (
        {
            "tools": [TOOL, OTHER],
            "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOL]}},
        },
        calls(("g", "{}")),
    ),
    (
        {
            "tools": [TOOL, OTHER],
            "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOL]}},
        },
        says("neither"),
    ),
    ({"tools": [CUSTOM, TOOL]}, calls(("other", "text"))),
    ({"functions": [FUNCTION]}, says("", extra={"function_call": {"name": "f", "arguments": "{}"}})),
    ({"functions": [{"name": "f"}], "function_call": {"name": "f"}}, says("no")),
]  # fmt: skip


@pytest.mark.parametrize(("body", "wrong"), FORMS)
async def test_a_whole_answer_that_breaks_its_form_falls_back_on_a_route_without_validate(
    stage: Any, body: dict[str, Any], wrong: Any
) -> None:
    scene = stage(quality=wrong, other=wrong, route=NO_VALIDATE)
    sent = await scene.send(**body)
    assert scene.attempts == {"quality": "invalid_output", "other": "invalid_output"}
    assert (sent.error.status, sent.error.code) == (502, "invalid_output")


@pytest.mark.parametrize(("body", "wrong"), FORMS)
async def test_a_direct_target_is_checked_as_well_and_validate_none_switches_that_off(
    stage: Any, body: dict[str, Any], wrong: Any
) -> None:
    sent = await stage(quality=wrong).send(**body, model="quality")
    assert isinstance(sent.error, InvalidOutput)
    unchecked = stage(quality=wrong, route=OFF)
    assert (await unchecked.send(**body)).error is None
    assert unchecked.decision.schema_check is None


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("body", "wrong"), FORMS)
async def test_a_form_is_checked_or_refused_by_name_whatever_the_engine(
    stage: Any, body: dict[str, Any], wrong: Any, engine: str
) -> None:
    """In every spelling: a target of another engine gets it translated, or is skipped."""
    scene = stage(quality=wrong, quality_target={"engine": engine, "capabilities": ENGINES[engine]}, route=NO_VALIDATE)
    sent = await scene.send(**body)
    if isinstance(sent.error, Unsupported):
        asked = (*body, *body.get("extra_body", {}), *body.get("nvext", {}))
        assert sent.error.param.rpartition(".")[2] in asked
    else:
        assert isinstance(sent.error, InvalidOutput)


@pytest.mark.parametrize(
    ("body", "texts", "is_error"),
    [
        ({"response_format": FORMAT}, ('{"n"', ": 1"), True),
        ({"response_format": FORMAT}, ('{"n"', ": 1}"), False),
        ({"response_format": FORMAT, "stop": ["x"]}, ('{"n"', ": 1"), True),
        ({"structured_outputs": {"regex": "[a-z]+!"}}, ("ab", "c"), True),
        ({"structured_outputs": {"regex": "[a-z]+!"}, "stop": ["x"]}, ("ab", "c"), True),
        ({"guided_choice": ["yes", "no"], "stop": ["x"]}, ("y", "e"), True),
        ({"tools": [TOOL], "tool_choice": "required"}, ("I will", " not"), True),
        ({}, ("free", " text"), False),
    ],
)
@pytest.mark.parametrize("route", [NO_VALIDATE, FULL], ids=["read along", "buffered"])
async def test_a_stream_that_ends_without_a_finish_reason_is_checked_as_it_is(
    stage: Any, body: dict[str, Any], texts: tuple[str, ...], is_error: bool, route: Any
) -> None:
    """The client sees an error event, not a regular end, unless what was sent is what it asked for."""
    scene = stage(quality=says(*texts, finish_reason=None), route=route)
    sent = await scene.send(stream=True, **body)
    assert isinstance(sent.error or sent.broken, InvalidOutput) is is_error
    assert scene.decision.outcome is (Outcome.ERROR if is_error else Outcome.OK)


RIGHT: list[Any] = [
    ({"tools": [CUSTOM, TOOL]}, calls(("patch", "*** Begin Patch"))),
    ({"tools": [CUSTOM, TOOL]}, calls(("patch", "x"), ("f", '{"n": 1}'))),
    ({"tools": [TOOL], "response_format": FORMAT}, calls(("f", '{"n": 1}'))),
    ({"tools": [TOOL], "response_format": FORMAT}, calls(("f", '{"n": 1}'), text="\n")),
    ({"tools": [TOOL], "tool_choice": "none"}, says("just text")),
    ({"functions": [{"name": "f"}]}, says("", extra={"function_call": {"name": "f", "arguments": '{"n": 1}'}})),
]


@pytest.mark.parametrize(("body", "right"), RIGHT)
async def test_a_right_answer_passes(stage: Any, body: dict[str, Any], right: Any) -> None:
    scene = stage(quality=right, route=NO_VALIDATE)
    sent = await scene.send(**body)
    assert (sent.error, scene.decision.schema_check) == (None, SchemaCheck.VALID)


DECLINED = [
    says("", extra={"content": None, "refusal": "I must not."}),
    says("I must", finish_reason="content_filter"),
    says('{"n": 1', finish_reason="content_filter"),
    says('{"n": 1}', finish_reason="content_filter"),
]


@pytest.mark.parametrize(
    ("declined", "stream"), [(each, False) for each in DECLINED] + [(each, True) for each in DECLINED[2:]]
)
@pytest.mark.parametrize("body", [{"response_format": FORMAT}, {"tools": [TOOL], "tool_choice": "required"}])
async def test_a_refusal_passes_and_is_not_called_valid(
    stage: Any, body: dict[str, Any], declined: Any, stream: bool
) -> None:
    scene = stage(quality=declined, route=FULL)
    sent = await scene.send(stream=stream, **body)
    assert (sent.error, sent.broken, scene.decision.schema_check) == (None, None, None)


@pytest.mark.parametrize("model", ["auto", "quality"])
async def test_without_validate_a_stream_is_read_along_but_not_held_back(stage: Any, model: str) -> None:
    scene = stage(quality=says('{"n', '": ', '"1"', "}", between_s=1.0), route=NO_VALIDATE)
    answer = await scene.pipeline.handle(scene.query(stream=True, response_format=FORMAT, model=model))
    assert scene.clock.now_s() == 1001.0
    sent = await scene.read(answer)
    await answer.aclose()
    assert sent.text == '{"n": '
    assert isinstance(sent.broken, InvalidOutput)
    assert scene.decision.outcome is Outcome.ERROR


async def test_free_text_is_not_checked(stage: Any) -> None:
    scene = stage(quality=says("Hello", " " * 9000), route=NO_VALIDATE)
    sent = await scene.send(stream=True)
    assert (sent.broken, scene.decision.schema_check) == (None, None)


RUNS = {
    "blanks after a value": '{"n":1' + " " * 250_000,
    "zeros after a digit": '{"n":1' + "0" * 250_000,
    "leading blanks": " " * 250_000,
    "leading newlines": "\n" * 250_000,
    "blanks behind the end": '{"n": 1}' + " " * 250_000,
    "tabs before a key": "{" + "\t" * 250_000,
    "one token in a string": '{"n": 1, "s": "' + "the " * 60_000,
    "one element": '{"n": 1, "a": [' + "0, " * 80_000,
}


def pieces(text: str) -> list[str]:
    return [text[at : at + 50] for at in range(0, len(text), 50)]


@pytest.mark.parametrize("run", RUNS)
async def test_output_that_runs_away_is_cut_within_4_kb_and_answered_by_the_next_target(stage: Any, run: str) -> None:
    scene = stage(fast=says(*pieces(RUNS[run]), between_s=0.01), quality=GOOD, route=FULL)
    sent = await scene.send(stream=True, response_format=FORMAT)
    assert (sent.text, scene.attempts) == ('{"n": 1}', {"fast": "invalid_output", "quality": "ok"})
    assert scene.decision.attempts[0].detail.endswith("_runaway at #")
    read = (scene.clock.now_s() - 1000.0) / 0.01 * 50
    assert read <= 4096 + 100


@pytest.mark.parametrize("run", RUNS)
async def test_read_along_it_falls_back_while_nothing_has_left_and_ends_with_an_error_after_that(
    stage: Any, run: str
) -> None:
    scene = stage(fast=says(*pieces(RUNS[run])), quality=GOOD, route=NO_VALIDATE)
    sent = await scene.send(stream=True, response_format=FORMAT)
    if run.startswith("leading"):
        assert (sent.text, scene.attempts) == ('{"n": 1}', {"fast": "invalid_output", "quality": "ok"})
    else:
        assert isinstance(sent.broken, InvalidOutput)
        assert len(sent.text) <= 4096 + 100


@pytest.mark.parametrize(
    "document",
    [{"n": 1, "a": {"b": [0] * 1200}}, {"n": 1, "csv": "0,0,1\n" * 600}, {"n": 1, "a": [None] * 2000, "s": "=" * 4000}],
)
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("asked", [{"type": "json_object"}, FORMAT | {"json_schema": {"name": "x", "schema": True}}])
async def test_equal_elements_and_rows_are_no_runaway(
    stage: Any, document: dict[str, Any], indent: int | None, asked: Any
) -> None:
    text = json.dumps(document, indent=indent)
    scene = stage(fast=says(*pieces(text)), quality=GOOD, route=FULL)
    sent = await scene.send(stream=True, response_format=asked)
    assert (sent.text, scene.decision.schema_check) == (text, SchemaCheck.VALID)


async def test_a_whole_answer_with_absurd_white_space_is_served_if_it_is_valid(stage: Any) -> None:
    scene = stage(fast=says(RUNS["blanks after a value"] + "}"), quality=GOOD)
    await scene.send(response_format=FORMAT)
    assert scene.attempts == {"fast": "ok"}


@pytest.mark.parametrize(("scope", "is_cut"), [(RunawayScope.ALL, True), (RunawayScope.FORM, False)])
async def test_free_text_is_cut_where_the_policy_says_so(stage: Any, scope: RunawayScope, is_cut: bool) -> None:
    scene = stage(fast=says("x", *pieces(" " * 9000)), quality=GOOD, route={"checks": Checks(runaway=scope)})
    sent = await scene.send(stream=True)
    assert (sent.text == '{"n": 1}') is is_cut


CUT = says('{"n": 1, "s": "half', finish_reason="length")


@pytest.mark.parametrize("route", [FULL, NO_VALIDATE, {"checks": Checks(repair=True)}])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_max_tokens_cut_is_served_without_another_attempt(
    stage: Any, route: Any, stream: bool
) -> None:
    scene = stage(fast=CUT, quality=GOOD, route=route)
    sent = await scene.send(stream=stream, response_format=FORMAT, max_tokens=5)
    assert (sent.text, scene.attempts) == ('{"n": 1, "s": "half', {"fast": "ok"})
    assert (sent.broken, scene.decision.schema_check) == (None, SchemaCheck.TRUNCATED)
    assert b'"finish_reason":"length"' in b"".join(sent.data)


async def test_a_cut_answer_that_is_already_wrong_falls_back(stage: Any) -> None:
    scene = stage(fast=says('{"n": "one", ', finish_reason="length"), quality=GOOD)
    await scene.send(response_format=FORMAT)
    assert scene.attempts == {"fast": "invalid_output", "quality": "ok"}


async def test_a_repaired_answer_keeps_its_integers(stage: Any) -> None:
    scene = stage(
        fast=says('{"n": 123456789012345678901234567890'), quality=GOOD, route={"checks": Checks(repair=True)}
    )
    sent = await scene.send(response_format=FORMAT)
    assert (sent.text, scene.attempts) == ('{"n": 123456789012345678901234567890}', {"fast": "ok"})
