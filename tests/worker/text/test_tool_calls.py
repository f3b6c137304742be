"""Native tool calls: the released checkpoint's syntax is converted to JSON, everything else is rejected."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.text.tool_calls import read_call

QUOTE = '<|"|>'


def read(text: str) -> tuple[str, Any] | None:
    """Name and arguments of a call written with spelled quotes."""
    call = read_call(text.split(QUOTE))
    return None if call is None else (call.name, json.loads(call.arguments))


def written(value: Any) -> str:
    """A value as Gemma's templates write it."""
    if isinstance(value, str):
        return f"{QUOTE}{value}{QUOTE}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value)


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,8}", fullmatch=True)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8).filter(lambda text: QUOTE not in text),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


@given(name=NAMES, arguments=st.dictionaries(NAMES, VALUES, max_size=4))
def test_calls_written_by_the_template_are_parsed(name: str, arguments: dict[str, Any]) -> None:
    """Any quoted text, any depth, every kind of value."""
    assert read(f"call:{name}{written(arguments)}") == (name, arguments)


@given(segments=st.lists(st.text(alphabet='{}[]:,"\\ab1.- \n', max_size=8), min_size=1, max_size=5))
def test_any_text_is_parsed_or_rejected_without_an_error(segments: list[str]) -> None:
    """The arguments of a call are always a JSON object."""
    call = read_call([f"call:f{{{segments[0]}", *segments[1:]])
    assert call is None or isinstance(json.loads(call.arguments), dict)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("call:f{}", {}),
        (" call:f{ a : 1 , b : [ ] }\n", {"a": 1, "b": []}),
        ("call:f{a:1,}", {"a": 1}),
        ("call:f{a:[1,2,],b:{c:null}}", {"a": [1, 2], "b": {"c": None}}),
        ('call:f{a:<|"|>x, y} "z"<|"|>}', {"a": 'x, y} "z"'}),
        ('call:f{a:<|"|><|"|>}', {"a": ""}),
        ('call:f{<|"|>odd key<|"|>:1}', {"odd key": 1}),
        ('call:f{a:"x\\n\\"y\\"",b:["z"]}', {"a": 'x\n"y"', "b": ["z"]}),
        ('call:f{"a":1}', {"a": 1}),
        ("call:f{unit:celsius,code:007,day:2026-01-02}", {"unit": "celsius", "code": "007", "day": "2026-01-02"}),
        ("call:f{a:None,b:True,c:False}", {"a": None, "b": True, "c": False}),
    ],
)
def test_accepted_forms_of_calls(text: str, arguments: dict[str, Any]) -> None:
    """JSON quotes and bare words are known deviations with an unambiguous meaning."""
    assert read(text) == ("f", arguments)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "call:",
        "call:f",
        "f{a:1}",
        "call:f(a=1)",
        "call:f{a:1",
        "call:f{a:1}}",
        "call:f{a:1} and more",
        "call:f{a}",
        "call:f{a:}",
        "call:f{:1}",
        "call:f{a 1}",
        "call:f{a:1 b:2}",
        "call:f{a:New York}",
        "call:f{a:'x'}",
        'call:f{a:"x}',
        'call:f{a:"\\q"}',
        "call:f{,}",
        "call:f[1]",
        'call:f{a:<|"|>x}',
        "call:f{a:" + "[" * 100 + "]" * 100 + "}",
        "call:f" + "{a:" * 100_000,
    ],
)
def test_rejected_forms_of_calls(text: str) -> None:
    """Parentheses, a bare opening token, and anything incomplete or ambiguous, at any depth."""
    assert read(text) is None


def test_numbers_are_kept_as_written() -> None:
    """They are not converted to floats."""
    call = read_call(["call:f{a:1.10,b:123456789012345678901234567890,c:1e999}"])
    assert call is not None
    assert call.arguments == '{"a":1.10,"b":123456789012345678901234567890,"c":1e999}'
