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
        (ToolCall(index=0, name="subtract"), "name at a tool call"),
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
        (ToolCall(index=0, name="sub"), "name at a tool call"),
        (ToolCall(index=0, name="add", arguments='{"x": "1"'), "type at tool add: #/properties/x, byte 6"),
        (None, None),
    ],
)
def test_a_call_may_be_cut_as_well(query: MakeQuery, call: ToolCall | None, detail: str | None) -> None:
    wanted = query(tools=TOOLS, tool_choice=REQUIRED)
    assert error_of(wanted, Piece(index=0, tool_calls=(call,) if call else ()), CUT) == detail


def test_a_stop_string_of_the_request_may_cut_the_text(query: MakeQuery) -> None:
    stopping = query(output_format=JSON_SCHEMA, needs=frozenset({Capability.CHAT, Capability.STOP}))
    assert error_of(stopping, piece_of('{"n": 1')) is None
    assert error_of(stopping, piece_of('{"n": "1"')) == "type at #/properties/n, byte 6"


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
