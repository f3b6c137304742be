"""Responses are checked against the requested format, complete or while they stream."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.enums import FormatKind
from gateway.types import OutputFormat, Piece, Query, Tool, ToolCall
from gateway.validation.json_schema import SchemaCache, SchemaError
from gateway.validation.response_check import ResponseCheck

MakeQuery = Callable[..., Query]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
JSON_SCHEMA = OutputFormat(form=FormatKind.JSON_SCHEMA, schema=SCHEMA)
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
        (OutputFormat(form=FormatKind.TEMPLATE, pattern="x"), "anything", None),
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
    ("must_call", "called", "detail"),
    [
        ("", None, "tool_choice at #"),
        ("", "now", None),
        ("now", "now", None),
        ("add", "now", "tool_choice at #"),
        ("add", None, "tool_choice at #"),
        (None, None, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_required_tool_call_must_be_present(
    query: MakeQuery, must_call: str | None, called: str | None, detail: str | None, stream: bool
) -> None:
    wanted = query(tools=TOOLS, must_call=must_call, stream=stream)
    calls = (ToolCall(index=0, name=called, arguments="{}"),) if called else ()
    found = error_of(wanted, Piece(index=0, tool_calls=calls, text="" if called else "no"))
    assert (found and found.removeprefix("early: ")) == detail


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


def test_a_refusal_is_a_valid_response(query: MakeQuery) -> None:
    assert error_of(query(output_format=JSON_SCHEMA), Piece(index=0, refusal="I must not.")) is None


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
        ({"output_format": OutputFormat(form=FormatKind.TEMPLATE, pattern="x")}, False),
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
