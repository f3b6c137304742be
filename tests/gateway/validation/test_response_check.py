"""Responses are checked against the requested format, complete or while they stream."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.enums import Capability, FormatKind, RunawayScope
from gateway.types import OutputFormat, Piece, Query, Tool, ToolCall, ToolChoice
from gateway.validation.json_schema import SchemaCache, SchemaError
from gateway.validation.response_check import ResponseCheck

MakeQuery = Callable[..., Query]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
JSON_SCHEMA = OutputFormat(form=FormatKind.JSON_SCHEMA, schema=SCHEMA)
REQUIRED = ToolChoice(is_required=True)
JSON_OBJECT = OutputFormat(form=FormatKind.JSON_OBJECT)
TOOLS = (Tool(name="add", parameters={"required": ["x"], "properties": {"x": {"type": "number"}}}), Tool(name="now"))


def error_of(query: Query, *pieces: Piece) -> str | None:
    """The detail of the first error; pieces are fed one by one."""
    check = ResponseCheck(query, SchemaCache(), early=query.stream)
    for piece in pieces:
        error = check.feed([piece])
        if error is not None:
            return f"early: {error.detail}"
    error = check.finish()
    return error and error.detail


def piece_of(text: str, index: int = 0) -> Piece:
    return Piece(index=index, text=text)


@pytest.mark.parametrize(
    ("output_format", "text", "detail"),
    [
        (JSON_SCHEMA, '{"n": 1}', None),
        (JSON_SCHEMA, ' {"n": 1}\n', None),
        (JSON_SCHEMA, '{"n": "1"}', "type at #/properties/n, byte 6"),
        (JSON_SCHEMA, "{}", "required at #/properties/n, byte 1"),
        (JSON_SCHEMA, '```json\n{"n": 1}\n```', "json at #, byte 0"),
        (JSON_SCHEMA, '{"n": 1} Done.', "json at #, byte 9"),
        (JSON_SCHEMA, '{"é": 1, "n": "1"}', "type at #/properties/n, byte 15"),
        (JSON_SCHEMA, '{"n": 12 "x": 1}', "json at #, byte 9"),
        (JSON_SCHEMA, '{"n": "1" x', "type at #/properties/n, byte 6"),
        (JSON_SCHEMA, '{"n": 1', "json at its end"),
        (JSON_SCHEMA, "", "json at its end"),
        (JSON_SCHEMA, '{"n": NaN}', "json at #, byte 6"),
        (JSON_OBJECT, "{}", None),
        (JSON_OBJECT, "[]", "type at #, byte 0"),
        (OutputFormat(form=FormatKind.REGEX, pattern="[a-z]+"), "abc", None),
        (OutputFormat(form=FormatKind.REGEX, pattern="[a-z]+"), "abc!", "regex at #"),
        (OutputFormat(form=FormatKind.CHOICE, choices=("yes", "no")), "yes", None),
        (OutputFormat(form=FormatKind.CHOICE, choices=("yes", "no")), "maybe", "choice at #, byte 0"),
        (OutputFormat(form=FormatKind.CHOICE, choices=("yes", "no")), "ye", "choice at #"),
        (OutputFormat(form=FormatKind.CHOICE, choices=("yes", "no")), "yes!", "choice at #, byte 3"),
        (OutputFormat(form=FormatKind.TEMPLATE, pattern="On [a-z]+"), "On monday", None),
        (OutputFormat(form=FormatKind.TEMPLATE, pattern="On [a-z]+"), "On 5", "regex at #"),
        (OutputFormat(form=FormatKind.TEMPLATE), "anything", None),
        (OutputFormat(form=FormatKind.GRAMMAR, grammar="root ::= a"), "anything", None),
        (None, "anything", None),
    ],
)
def test_a_text_must_match_the_requested_format(
    query: MakeQuery, output_format: OutputFormat | None, text: str, detail: str | None
) -> None:
    assert error_of(query(output_format=output_format), piece_of(text)) == detail


@pytest.mark.parametrize(
    ("call", "detail"),
    [
        (ToolCall(index=0, name="add", arguments='{"x": 1}'), None),
        (ToolCall(index=0, name="add", arguments="{}"), "required at tool add: #/properties/x, byte 1"),
        (ToolCall(index=0, name="add", arguments='{"x": '), "json at tool add: its end"),
        (ToolCall(index=0, name="subtract", arguments="{}"), "early: name at a tool call"),
        (ToolCall(index=0, name="subtract"), "early: name at a tool call"),
        (ToolCall(index=0, name="now", arguments="{}"), None),
        (ToolCall(index=0, name="now", arguments="soon"), "json at tool now: #, byte 0"),
        (ToolCall(index=0, name="now", arguments="[]"), "type at tool now: #, byte 0"),
    ],
)
def test_a_call_must_name_a_known_tool_with_fitting_arguments(
    query: MakeQuery, call: ToolCall, detail: str | None
) -> None:
    assert error_of(query(tools=TOOLS), Piece(index=0, tool_calls=(call,))) == detail


@pytest.mark.parametrize(
    ("choice", "called", "detail"),
    [
        (REQUIRED, None, "tool_choice at #"),
        (REQUIRED, "now", None),
        (ToolChoice(is_required=True, allowed=frozenset({"now"})), "now", None),
        (ToolChoice(is_required=True, allowed=frozenset({"add"})), "now", "tool_choice at #"),
        (ToolChoice(is_required=True, allowed=frozenset({"add"})), None, "tool_choice at #"),
        (ToolChoice(allowed=frozenset({"add"})), "now", "tool_choice at #"),
        (ToolChoice(allowed=frozenset({"add"})), None, None),
        (ToolChoice(allowed=frozenset()), "now", "tool_choice at #"),
        (ToolChoice(allowed=frozenset()), None, None),
        (ToolChoice(), None, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_calls_follow_the_tool_choice(
    query: MakeQuery, choice: ToolChoice, called: str | None, detail: str | None, stream: bool
) -> None:
    wanted = query(tools=TOOLS, tool_choice=choice, stream=stream)
    calls = (ToolCall(index=0, name=called, arguments="{}"),) if called else ()
    found = error_of(wanted, Piece(index=0, tool_calls=calls, text="" if called else "no"))
    assert (found and found.removeprefix("early: ")) == detail


@pytest.mark.parametrize("stream", [False, True])
def test_several_calls_are_one_too_many_without_parallel_calls(query: MakeQuery, stream: bool) -> None:
    calls = tuple(ToolCall(index=index, name="now", arguments="{}") for index in range(2))
    for parallel, detail in ((True, None), (False, "early: parallel_tool_calls at #")):
        wanted = query(tools=TOOLS, tool_choice=ToolChoice(parallel=parallel), stream=stream)
        assert error_of(wanted, *(Piece(index=0, tool_calls=(call,)) for call in calls)) == detail
        assert error_of(wanted, *(Piece(index=index, tool_calls=(calls[0],)) for index in range(2))) is None


@pytest.mark.parametrize(
    ("input_", "detail"), [("abc", None), ("abc!", "regex at tool patch: #"), ("", "regex at tool patch: #")]
)
def test_the_input_of_a_custom_tool_is_text(query: MakeQuery, input_: str, detail: str | None) -> None:
    free, lower = (Tool(name="patch", is_custom=True, pattern=pattern) for pattern in (None, "[a-z]+"))
    piece = Piece(index=0, tool_calls=(ToolCall(index=0, name="patch", arguments=input_),))
    assert error_of(query(tools=(*TOOLS, lower)), piece) == detail
    assert error_of(query(tools=(*TOOLS, free)), piece) is None


CUT = Piece(index=0, finish_reason="length")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("output_format", "text", "detail", "is_truncated"),
    [
        (JSON_SCHEMA, '{"n": 1}', None, False),
        (JSON_SCHEMA, '{"n": 1', None, True),
        (JSON_SCHEMA, '{"m": "half a str', None, True),
        (JSON_SCHEMA, "", None, True),
        (JSON_SCHEMA, '{"n": "1", ', "type at #/properties/n, byte 6", False),
        (JSON_SCHEMA, "Sure", "json at #, byte 0", False),
        (JSON_OBJECT, '{"a": [1, {"b": tr', None, True),
        (OutputFormat(form=FormatKind.CHOICE, choices=("yes", "no")), "ye", None, True),
        (OutputFormat(form=FormatKind.CHOICE, choices=("yes", "no")), "yo", "choice at #, byte 1", False),
        (OutputFormat(form=FormatKind.REGEX, pattern="[a-z]+!"), "abc", None, True),
        (None, "half a sent", None, False),
    ],
)
def test_a_text_that_a_token_limit_cut_is_valid_as_far_as_it_goes(
    query: MakeQuery,
    output_format: OutputFormat | None,
    text: str,
    detail: str | None,
    is_truncated: bool,
    stream: bool,
) -> None:
    check = ResponseCheck(query(output_format=output_format, stream=stream), SchemaCache(), early=stream)
    error = check.feed([piece_of(text), CUT]) or check.finish()
    assert (error and error.detail, check.is_truncated) == (detail, is_truncated)


@pytest.mark.parametrize(
    ("call", "detail"),
    [
        (ToolCall(index=0, name="add", arguments='{"x": '), None),
        (ToolCall(index=0, name="ad"), None),
        (ToolCall(index=0, name="add"), None),
        (ToolCall(index=0, name="sub"), "early: name at a tool call"),
        (ToolCall(index=0, name="add", arguments='{"x": "1"'), "type at tool add: #/properties/x, byte 6"),
        (None, None),
    ],
)
def test_a_call_may_be_cut_as_well(query: MakeQuery, call: ToolCall | None, detail: str | None) -> None:
    wanted = query(tools=TOOLS, tool_choice=REQUIRED)
    assert error_of(wanted, Piece(index=0, tool_calls=(call,) if call else ()), CUT) == detail


REGEX = OutputFormat(form=FormatKind.REGEX, pattern=r"[a-z]+ \d{4}")
GRAMMAR = OutputFormat(form=FormatKind.GRAMMAR, grammar="root ::= a")


def verdict_of(query: Query, *pieces: Piece) -> str:
    """What the header would say."""
    check = ResponseCheck(query, SchemaCache(), early=query.stream)
    error = next((found for piece in pieces if (found := check.feed([piece])) is not None), None) or check.finish()
    if error is not None:
        return error.keyword
    if check.is_truncated:
        return "truncated"
    return "valid" if check.is_verified else "none"


def call_of(name: str, arguments: str = "", index: int = 0, id_: str = "") -> Piece:
    return Piece(index=0, tool_calls=(ToolCall(index=index, name=name, arguments=arguments, id=id_),))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "piece", "verdict"),
    [
        ({"tools": TOOLS}, piece_of("half a sent"), "truncated"),
        ({"tools": TOOLS, "tool_choice": REQUIRED}, piece_of("half a sent"), "truncated"),
        ({"tools": TOOLS, "tool_choice": REQUIRED}, Piece(index=0), "truncated"),
        ({"tools": TOOLS, "tool_choice": REQUIRED, "output_format": JSON_OBJECT}, piece_of("{}"), "truncated"),
        ({"tools": TOOLS, "tool_choice": ToolChoice(is_required=True, allowed=frozenset({"now"}))}, Piece(index=0),
         "truncated"),
        ({"tools": TOOLS}, call_of("ad"), "truncated"),
        ({"tools": TOOLS}, call_of("now"), "truncated"),
        ({"tools": TOOLS}, call_of("now", "{}"), "truncated"),  # another call may have been cut
        ({"tools": TOOLS}, call_of("add", '{"x": '), "truncated"),
        ({"tools": TOOLS, "tool_choice": ToolChoice(allowed=frozenset({"add"}))}, call_of("no"), "tool_choice"),
        ({"tools": (Tool(name="patch", is_custom=True),)}, call_of("patch", "*** Beg"), "truncated"),
        ({"tools": TOOLS, "output_format": JSON_OBJECT}, piece_of("{}"), "valid"),
        ({"output_format": GRAMMAR}, piece_of("half"), "truncated"),
        ({"output_format": REGEX}, piece_of("may 20"), "truncated"),
        ({"output_format": REGEX}, piece_of("may 2026"), "valid"),
        ({"output_format": REGEX}, piece_of("May"), "regex"),
        ({}, piece_of("half"), "none"),
    ],
)  # fmt: skip
def test_a_response_that_a_token_limit_cut_is_not_called_valid(
    query: MakeQuery, fields: dict[str, Any], piece: Piece, verdict: str, stream: bool
) -> None:
    found = verdict_of(query(**fields, stream=stream), piece, CUT)
    assert found == verdict if verdict != "tool_choice" else found in ("tool_choice", "name")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reason", ["length", "stop"])
def test_only_the_last_call_can_be_cut(query: MakeQuery, reason: str, stream: bool) -> None:
    wanted = query(tools=TOOLS, stream=stream, needs=frozenset({Capability.STOP}))
    end = Piece(index=0, finish_reason=reason)
    assert verdict_of(wanted, call_of("add", '{"x": '), call_of("now", "{}", 1), end) == "json"
    assert verdict_of(wanted, call_of("now", "{}"), call_of("add", '{"x": ', 1), end) == "truncated"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("output_format", "text", "verdict"),
    [
        (JSON_SCHEMA, '{"n": 1}', "valid"),
        (JSON_SCHEMA, '{"n": 1', "truncated"),
        (JSON_SCHEMA, '{"n": "1"', "type"),
        (REGEX, "may 2026", "valid"),
        (REGEX, "may ", "truncated"),
        (REGEX, "May 2026", "regex"),
        (REGEX, "may 2026.", "regex"),
        (REGEX, "I do not know", "regex"),
        (OutputFormat(form=FormatKind.TEMPLATE, pattern="On [a-z]+day"), "On mon", "truncated"),
        (OutputFormat(form=FormatKind.TEMPLATE, pattern="On [a-z]+day"), "At mon", "regex"),
        (OutputFormat(form=FormatKind.CHOICE, choices=("yes", "no")), "ye", "truncated"),
        (OutputFormat(form=FormatKind.CHOICE, choices=("yes", "no")), "yo", "choice"),
    ],
)
def test_a_stop_string_of_the_request_may_cut_the_text_but_not_excuse_another_one(
    query: MakeQuery, output_format: OutputFormat, text: str, verdict: str, stream: bool
) -> None:
    stopping = query(output_format=output_format, needs=frozenset({Capability.CHAT, Capability.STOP}), stream=stream)
    assert verdict_of(stopping, piece_of(text), Piece(index=0, finish_reason="stop")) == verdict
    if verdict == "truncated":  # without a finish reason the response broke off
        assert verdict_of(stopping, piece_of(text)) in ("json", "regex", "choice")


def test_a_stop_string_does_not_replace_a_required_call(query: MakeQuery) -> None:
    stopping = query(tools=TOOLS, tool_choice=REQUIRED, needs=frozenset({Capability.STOP}))
    assert verdict_of(stopping, piece_of("I will not."), Piece(index=0, finish_reason="stop")) == "tool_choice"


@pytest.mark.parametrize("stream", [False, True])
def test_a_long_text_that_was_cut_is_checked_as_well(query: MakeQuery, stream: bool) -> None:
    wanted = query(output_format=JSON_SCHEMA, stream=stream)
    filler = json.dumps({"a": list(range(20_000))})[:-1] + ", "
    assert verdict_of(wanted, piece_of(filler + '"n": 1'), CUT) == "truncated"
    assert verdict_of(wanted, piece_of(filler + '"n": "1"'), CUT) == "type"
    assert verdict_of(wanted, piece_of(filler + "n: 1"), CUT) == "json"


def test_a_long_text_that_was_cut_is_examined_in_steps(query: MakeQuery) -> None:
    check = ResponseCheck(query(output_format=JSON_SCHEMA), SchemaCache(), early=False)
    check.feed([piece_of('{"a": "' + "x" * 100_000), CUT])
    assert len(list(check.examine_cuts())) > 20
    assert len(list(check.examine_cuts())) == 0  # once
    assert (check.finish(), check.is_truncated) == (None, True)


@pytest.mark.parametrize("piece", [Piece(index=0, refusal="no"), Piece(index=0, finish_reason="content_filter")])
def test_what_was_declined_is_not_called_valid(query: MakeQuery, piece: Piece) -> None:
    other = Piece(index=1, text='{"n": 1}')
    assert verdict_of(query(output_format=JSON_SCHEMA, stream=True), piece_of('{"n": 1}'), piece, other) == "none"
    assert verdict_of(query(tools=TOOLS), piece, call_of("now", "{}"), CUT) == "none"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("tool", "arguments", "verdict"),
    [
        (Tool(name="f"), "", "valid"),
        (Tool(name="f"), " \n", "valid"),
        (Tool(name="f", parameters={"type": "object", "properties": {}}), "", "valid"),
        (Tool(name="f", parameters={"type": "object", "required": ["x"]}), "", "required"),
        (Tool(name="f", parameters={"required": ["x"]}), "[1]", "type"),
        (Tool(name="f", parameters={"required": ["x"]}), '"{}"', "type"),
        (Tool(name="f", parameters=True), "null", "type"),
        (Tool(name="f", parameters={}), " 5", "type"),
        (Tool(name="f", parameters={}), " {}", "valid"),
        (Tool(name="f"), "{} {}", "json"),
        (Tool(name="f", is_custom=True), "", "valid"),
        (Tool(name="f", is_custom=True, pattern="[a-z]+"), "", "regex"),
        (Tool(name="f", is_custom=True, pattern="[a-z]+"), "ab", "valid"),
        (Tool(name="f", is_custom=True, pattern="[a-z]+"), "aB", "regex"),
    ],
)
def test_the_arguments_of_a_call_are_an_object(
    query: MakeQuery, tool: Tool, arguments: str, verdict: str, stream: bool
) -> None:
    fragments = [call_of("f"), *(Piece(index=0, tool_calls=(ToolCall(index=0, arguments=c),)) for c in arguments)]
    whole = [call_of("f", arguments)]
    assert verdict_of(query(tools=(tool,), stream=stream), *(fragments if stream else whole)) == verdict


@pytest.mark.parametrize("stream", [False, True])
def test_calls_have_different_ids(query: MakeQuery, stream: bool) -> None:
    wanted = query(tools=TOOLS, stream=stream)
    assert verdict_of(wanted, call_of("now", "{}", 0, "a"), call_of("now", "{}", 1, "a")) == "id"
    assert verdict_of(wanted, call_of("now", "{}", 0, "a"), call_of("now", "{}", 1, "b")) == "valid"
    assert verdict_of(wanted, call_of("now", "{}"), call_of("now", "{}", 1)) == "valid"
    assert verdict_of(wanted, call_of("now", "", 0, "a"), call_of("", "{}", 0, "a")) == "valid"


@pytest.mark.parametrize(
    ("choice", "name", "verdict"),
    [
        (ToolChoice(), "sub", "name"),
        (ToolChoice(allowed=frozenset({"add"})), "now", "tool_choice"),
        (ToolChoice(allowed=frozenset()), "now", "tool_choice"),
    ],
)
def test_a_wrong_call_is_found_by_its_name(query: MakeQuery, choice: ToolChoice, name: str, verdict: str) -> None:
    check = ResponseCheck(query(tools=TOOLS, tool_choice=choice, stream=True), SchemaCache(), early=True)
    error = check.feed([call_of(name)])
    assert error is not None
    assert error.keyword == verdict


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        ("MAX_TOKENS", "truncated"),
        ("model_length", "truncated"),
        ("SAFETY", "none"),
        ("sensitive", "none"),
        ("error", "json"),
        ("abort", "json"),
        ("eos", "json"),
    ],
)
def test_finish_reasons_of_other_servers(query: MakeQuery, reason: str, verdict: str) -> None:
    end = Piece(index=0, finish_reason=reason)
    assert verdict_of(query(output_format=JSON_SCHEMA), piece_of('{"n": 1'), end) == verdict
    assert verdict_of(query(tools=TOOLS), piece_of("half a"), end) == {
        "json": "valid" if reason == "eos" else "finish_reason"
    }.get(verdict, verdict)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('{"n": 1, "n": 1}', "repeatedKey"),
        ('{"n": "x", "n": 1}', "type"),  # which comes first
        ('{"n": 1, "a": [{"b": 1, "c": 2, "b": 3}]}', "repeatedKey"),
        ('{"n": 1, "a": {"b": "\\u0022", "b": 1}}', "repeatedKey"),
        ('{"n": 1, "a": {"b": 1, "\\u0062": 1}}', "repeatedKey"),
        ('{"n": 1, "a": [{"b": "\\u0022\\""}, {"b": 3}]}', "valid"),
        ('{"n": 1, "N": 1, "a": "\\"n\\":"}', "valid"),
    ],
)
def test_a_repeated_key_is_an_error(query: MakeQuery, text: str, verdict: str, stream: bool) -> None:
    assert verdict_of(query(output_format=JSON_SCHEMA, stream=stream), piece_of(text)) == verdict


def test_a_stream_under_a_regular_expression_fails_while_it_arrives(query: MakeQuery) -> None:
    wanted = query(output_format=REGEX, stream=True)
    assert error_of(wanted, *map(piece_of, "I do not know")) == "early: regex at #"
    assert error_of(wanted, *map(piece_of, "may 2026")) is None


@pytest.mark.parametrize("number", [2**63, 2**64 + 1, 10**40])
@pytest.mark.parametrize("stream", [False, True])
def test_integers_are_compared_exactly(query: MakeQuery, number: int, stream: bool) -> None:
    wanted = query(output_format=OutputFormat(form=FormatKind.JSON_SCHEMA, schema={"const": number}), stream=stream)
    assert error_of(wanted, piece_of(str(number))) is None
    assert str(error_of(wanted, piece_of(f"{number + 1} "))).removeprefix("early: ") == "const at #, byte 0"


@pytest.mark.parametrize("text", [" " * 9000, '{"n": ' + "1" * 9000, '{"s": "' + "the " * 3000])
def test_a_stream_that_runs_away_fails(query: MakeQuery, text: str) -> None:
    pieces = [piece_of(text[at : at + 5]) for at in range(0, len(text), 5)]
    found = error_of(query(output_format=JSON_OBJECT, stream=True), *pieces)
    assert "early: " in str(found)
    assert "_runaway at #" in str(found)
    arguments = [Piece(index=0, tool_calls=(ToolCall(index=0, name="now" if at == 0 else "", arguments=piece.text),))
                 for at, piece in enumerate(pieces)]  # fmt: skip
    assert "_runaway at tool now: #" in str(error_of(query(tools=TOOLS, stream=True), *arguments))


def test_free_text_runs_away_only_where_the_route_says_so(query: MakeQuery) -> None:
    blanks = [piece_of(" " * 5000)]
    for scope, detail in ((RunawayScope.ALL, "whitespace_runaway at #"), (RunawayScope.FORM, None)):
        check = ResponseCheck(query(stream=True), SchemaCache(), early=True, runaway=scope)
        error = check.feed(blanks)
        assert (error and error.detail) == detail
    unguarded = ResponseCheck(
        query(output_format=JSON_OBJECT, stream=True), SchemaCache(), early=True, runaway=RunawayScope.NONE
    )
    assert unguarded.feed(blanks) is None


def test_a_whole_response_has_ended_and_cannot_run_away(query: MakeQuery) -> None:
    assert error_of(query(output_format=JSON_SCHEMA), piece_of('{"n":' + " " * 250_000 + "1}")) is None


def test_fragments_of_a_call_are_one_call(query: MakeQuery) -> None:
    fragments = [ToolCall(index=0, name="add"), *(ToolCall(index=0, arguments=part) for part in '{"x":1}')]
    assert error_of(query(tools=TOOLS), *(Piece(index=0, tool_calls=(part,)) for part in fragments)) is None


def test_a_choice_with_tool_calls_needs_no_text(query: MakeQuery) -> None:
    call = ToolCall(index=0, name="now", arguments="{}")
    wanted = query(tools=TOOLS, output_format=JSON_SCHEMA)
    assert error_of(wanted, Piece(index=0, tool_calls=(call,))) is None
    assert error_of(wanted, Piece(index=0, tool_calls=(call,), text="Calling now")) == "json at #, byte 0"


def test_tool_calls_are_not_checked_if_the_request_has_no_tools(query: MakeQuery) -> None:
    call = ToolCall(index=0, name="web_search", arguments="?")
    assert error_of(query(), Piece(index=0, tool_calls=(call,))) is None


def test_every_choice_must_be_valid(query: MakeQuery) -> None:
    wanted = query(output_format=JSON_SCHEMA)
    assert error_of(wanted, piece_of('{"n": 1}', 0), piece_of('{"n": 2}', 1)) is None
    assert error_of(wanted, piece_of('{"n": 1}', 0), piece_of('{"n": ""}', 1)) == "type at #/properties/n, byte 6"


@pytest.mark.parametrize(
    "piece", [Piece(index=0, refusal="I must not."), Piece(index=0, finish_reason="content_filter")]
)
def test_a_refusal_is_a_valid_response(query: MakeQuery, piece: Piece) -> None:
    assert error_of(query(output_format=JSON_SCHEMA), piece) is None


@pytest.mark.parametrize(
    ("output_format", "is_verified"),
    [
        (JSON_SCHEMA, True),
        (OutputFormat(form=FormatKind.GRAMMAR), False),
        (OutputFormat(form=FormatKind.TEMPLATE), False),
    ],
)
def test_a_grammar_is_not_verified(query: MakeQuery, output_format: OutputFormat, is_verified: bool) -> None:
    check = ResponseCheck(query(output_format=output_format), SchemaCache(), early=False)
    assert check.is_verified is is_verified


def test_a_response_without_choices_is_invalid(query: MakeQuery) -> None:
    assert error_of(query(output_format=JSON_SCHEMA)) == "choices at #"
    assert error_of(query()) is None


def test_a_stream_fails_at_its_first_impossible_character(query: MakeQuery) -> None:
    wanted = query(output_format=JSON_SCHEMA, stream=True)
    assert error_of(wanted, piece_of('{"n"'), piece_of(" = 1}"), piece_of("more")) == "early: json at #, byte 5"


def test_a_stream_fails_at_its_first_invalid_value(query: MakeQuery) -> None:
    wanted = query(output_format=JSON_SCHEMA, stream=True)
    assert (
        error_of(wanted, piece_of('{"m": 1, "n"'), piece_of(': "'), piece_of("never read"))
        == "early: type at #/properties/n, byte 14"
    )


def test_a_stream_fails_when_no_choice_has_this_prefix(query: MakeQuery) -> None:
    wanted = query(output_format=OutputFormat(form=FormatKind.CHOICE, choices=("yes", "yesterday")), stream=True)
    assert error_of(wanted, piece_of("yes"), piece_of("terdax"), piece_of("?")) == "early: choice at #, byte 8"


def test_a_tool_call_fails_at_the_first_invalid_argument(query: MakeQuery) -> None:
    fragments = [
        ToolCall(index=0, name="add"),
        *(ToolCall(index=0, arguments=part) for part in ('{"x"', ": tr", "ue}")),
    ]
    found = error_of(query(tools=TOOLS, stream=True), *(Piece(index=0, tool_calls=(part,)) for part in fragments))
    assert found == "early: type at tool add: #/properties/x, byte 6"


@given(st.data())
def test_the_result_does_not_depend_on_how_the_response_is_split(data: st.DataObject) -> None:
    value: Any = data.draw(st.sampled_from([{"n": 1}, {"n": "é🦊"}, {}, [1.5e3], "x"]))
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    wanted = Query(
        request_id="r", model="auto", body=b"", received_s=0, output_format=JSON_SCHEMA, stream=data.draw(st.booleans())
    )
    assert error_of(wanted, *map(piece_of, parts)) == error_of(wanted, piece_of(text))


@pytest.mark.parametrize(
    ("fields", "something"),
    [
        ({}, False),
        ({"output_format": JSON_OBJECT}, True),
        ({"tools": TOOLS}, True),
        ({"output_format": OutputFormat(form=FormatKind.GRAMMAR)}, True),
    ],
)
def test_it_reports_whether_there_is_anything_to_check(
    query: MakeQuery, fields: dict[str, Any], something: bool
) -> None:
    assert ResponseCheck(query(**fields), SchemaCache(), early=False).has_something_to_check is something


def test_a_schema_is_compiled_once_for_many_answers(query: MakeQuery) -> None:
    schemas = SchemaCache()
    for _ in range(3):
        check = ResponseCheck(query(output_format=JSON_SCHEMA), schemas, early=False)
        check.feed([piece_of('{"n": 1}')])
        assert check.finish() is None
    assert len(schemas) == 1


def test_an_unusable_schema_is_an_error_of_the_request(query: MakeQuery) -> None:
    wanted = query(output_format=OutputFormat(form=FormatKind.JSON_SCHEMA, schema={"type": "x"}))
    check = ResponseCheck(wanted, SchemaCache(), early=False)
    with pytest.raises(SchemaError):
        check.feed([piece_of("{}")])


def repaired_texts_of(query: Query, *pieces: Piece) -> dict[tuple[int, int | None], str]:
    check = ResponseCheck(query, SchemaCache(), early=False)
    check.feed(pieces)
    return check.repaired_texts()


def test_texts_and_arguments_that_lack_only_closing_brackets_are_repaired(query: MakeQuery) -> None:
    call = ToolCall(index=2, name="add", arguments='{"x": 1')
    wanted = query(output_format=JSON_SCHEMA, tools=TOOLS)
    pieces = [piece_of('{"n": [1'), piece_of('{"n": 1}', 1), Piece(index=2, tool_calls=(call,))]
    assert repaired_texts_of(wanted, *pieces) == {(0, None): '{"n": [1]}', (2, 2): '{"x": 1}'}


@pytest.mark.parametrize("piece", [Piece(index=0, finish_reason="length"), Piece(index=0, refusal="no")])
def test_truncated_and_refused_choices_are_not_repaired(query: MakeQuery, piece: Piece) -> None:
    assert repaired_texts_of(query(output_format=JSON_SCHEMA), piece_of('{"n": 1'), piece) == {}
