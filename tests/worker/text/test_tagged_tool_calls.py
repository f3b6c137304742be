"""Tagged tool calls: JSON between tags, parsed from text that arrives in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.text.tagged_tool_calls import TaggedCallReader, read_tagged_call
from diffusion_worker.text.tool_calls import ToolCall

CALL = '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}</tool_call>'
OTHER = '<tool_call>\n{"name":"g","arguments":{"n": 1.50e2}}\n</tool_call>'


def read(*pieces: str) -> tuple[str, list[ToolCall]]:
    reader = TaggedCallReader()
    parsed = [each for piece in pieces for each in reader.feed(piece)]
    parsed.append(reader.flush())
    return "".join(x for x in parsed if isinstance(x, str)), [x for x in parsed if isinstance(x, ToolCall)]


@given(st.integers(1, 40), st.integers(1, 40))
def test_calls_are_found_across_pieces(first: int, size: int) -> None:
    """A string may contain the closing tag, arguments are unchanged, white space after a call is dropped."""
    answer = f"Well <tool_<b>. {CALL}\n{OTHER}\n"
    pieces = [answer[:first], *(answer[at : at + size] for at in range(first, len(answer), size))]
    assert read(*pieces) == (
        "Well <tool_<b>. ",
        [
            ToolCall(name="f", arguments='{"a": "</tool_call>"}'),
            ToolCall(name="g", arguments='{"n": 1.50e2}'),
        ],
    )


def test_text_is_returned_once_it_cannot_start_a_tag() -> None:
    reader = TaggedCallReader()
    assert list(reader.feed("a <tool")) == ["a "]
    assert list(reader.feed("box")) == ["<toolbox"]
    assert list(reader.feed("<tool_call>{")) == [""]
    assert reader.is_calling


@pytest.mark.parametrize("text", ["<tool_call>{", f"so {CALL[:-3]}", "<tool_call>x</tool_call>", "a <"])
def test_an_incomplete_call_remains_text(text: str) -> None:
    assert read(text) == (text, [])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"name": "f"}',
        '{"name": "f", "arguments": []}',
        '{"name": "f", "arguments": {"a": }}',
        '{"name": "f", "arguments": {}} x',
        '{"name": "f", "arguments": {}, "x": 1}',
        '{"name": "f", "arguments": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}",
    ],
)
def test_malformed_calls_are_rejected(text: str) -> None:
    assert read_tagged_call(text) is None
