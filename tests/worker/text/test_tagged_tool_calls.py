"""text.envelope: calls in tags around JSON, found in text that comes in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.text.tagged_tool_calls import TaggedCallReader, read_tagged_call
from diffusion_worker.text.tool_calls import ToolCall

CALL = '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}</tool_call>'
OTHER = '<tool_call>\n{"name":"g","arguments":{"n": 1.50e2}}\n</tool_call>'


def read(*pieces: str) -> tuple[str, list[ToolCall]]:
    reader = TaggedCallReader()
    found = [each for piece in pieces for each in reader.feed(piece)]
    found.append(reader.flush())
    return "".join(x for x in found if isinstance(x, str)), [x for x in found if isinstance(x, ToolCall)]


@given(st.integers(1, 40), st.integers(1, 40))
def test_calls_are_found_wherever_pieces_end(first: int, size: int) -> None:
    """A string may hold the closing tag; arguments stay as they are written; white space behind a call is no text."""
    answer = f"Well <tool_<b>. {CALL}\n{OTHER}\n"
    pieces = [answer[:first], *(answer[at : at + size] for at in range(first, len(answer), size))]
    assert read(*pieces) == (
        "Well <tool_<b>. ",
        [
            ToolCall(name="f", arguments='{"a": "</tool_call>"}'),
            ToolCall(name="g", arguments='{"n": 1.50e2}'),
        ],
    )


def test_text_leaves_as_soon_as_it_is_no_tag() -> None:
    """What may become one waits."""
    reader = TaggedCallReader()
    assert list(reader.feed("a <tool")) == ["a "]
    assert list(reader.feed("box")) == ["<toolbox"]
    assert list(reader.feed("<tool_call>{")) == [""]
    assert reader.is_calling


@pytest.mark.parametrize("text", ["<tool_call>{", f"so {CALL[:-3]}", "<tool_call>x</tool_call>", "a <"])
def test_what_is_no_whole_call_stays_text(text: str) -> None:
    """Whole."""
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
def test_what_can_be_no_call_is_none(text: str) -> None:
    """Between two tags."""
    assert read_tagged_call(text) is None
