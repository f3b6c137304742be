"""Strings as JSON writes them: every legal encoding, no other."""

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.automata.automaton import ByteAutomaton, freeze
from diffusion_worker.constraints.automata.code_point_dfa import ANY_TEXT, dfa_of_pattern, with_length
from diffusion_worker.constraints.automata.graph import Graph
from diffusion_worker.constraints.automata.minimise import RangeDfa, minimal_automaton, minimise
from diffusion_worker.constraints.compile import compile_schema
from diffusion_worker.constraints.schema.json_strings import Style, name_trie, string

PRINTABLE = st.sampled_from("ab z~")
TORTURE = [
    "",
    'a"b',
    "\\",
    "/",
    "\n\t\r\b\f",
    "\x00\x1f\x7f",
    "é",
    "\u07ff\u0800",
    "\ud7ff\ue000",
    "\uffff",
    "😀",
    "\U0010ffff",
]
NOT_STRINGS = [
    *(b'"', b'""x', b"''", b'"\n"', b'"\x00"', b'"\\x"', b'"\\u12"', b'"\\u12g4"', b'"\\U0041"'),
    *(b'"\\ud800"', b'"\\udc00"', b'"\\ud800\\u0041"', b'"\\ud800\\ud800"', b'"\\ud800x"'),
    *(b'"\x80"', b'"\xc0\x80"', b'"\xc3"', b'"\xe0\x80\x80"', b'"\xed\xa0\x80"', b'"\xf0\x80\x80\x80"'),
    *(b'"\xf4\x90\x80\x80"', b'"\xf5\x80\x80\x80"', b'"\xff"', b'"\xc3"\xa9'),
]


def automaton(language: RangeDfa, style: Style) -> ByteAutomaton:
    """The strings of a language, quotes included."""
    graph = Graph(max_states=100_000)
    start = string(graph, language, graph.state([], accepting=True), style=style)
    minimal = minimise(graph.rows, graph.accepting, start)
    return freeze(minimal.rows, minimal.accepting, minimal.start)


FREE, PLAIN, RAW = (automaton(ANY_TEXT, style) for style in get_args(Style)[:3])


@pytest.mark.parametrize("text", TORTURE)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_serialised_strings_are_accepted(text: str, ascii_only: bool) -> None:
    """Raw UTF-8 and escapes, surrogate pairs included."""
    encoded = json.dumps(text, ensure_ascii=ascii_only).encode()
    assert FREE.accepts(encoded)
    assert PLAIN.accepts(encoded)
    assert RAW.accepts(encoded) == (b"\\u" not in encoded and max(map(ord, text), default=0) <= 0x3FFFF)


@pytest.mark.parametrize("encoded", NOT_STRINGS)
def test_malformed_strings_are_rejected(encoded: bytes) -> None:
    """Strict UTF-8, no lone surrogates, no bare controls."""
    assert not FREE.accepts(encoded)
    assert not PLAIN.accepts(encoded)
    assert not RAW.accepts(encoded)


def test_only_the_free_encoding_accepts_unnecessary_escapes() -> None:
    """`\\u0041` is an A."""
    assert FREE.accepts(b'"\\u0041\\/"')
    assert not PLAIN.accepts(b'"\\u0041"')


@given(st.binary(max_size=12))
def test_bytes_are_accepted_exactly_if_json_parses_them(inside: bytes) -> None:
    """Except for lone surrogates, which Python's parser accepts."""
    encoded = b'"' + inside + b'"'
    try:
        text = json.loads(encoded.decode())
        legal = isinstance(text, str) and not any(0xD800 <= ord(char) <= 0xDFFF for char in text)
    except ValueError:
        legal = False
    assert FREE.accepts(encoded) == legal


@given(st.text(max_size=6), st.integers(0, 3), st.integers(0, 4))
def test_lengths_count_code_points_in_every_encoding(text: str, low: int, high: int) -> None:
    """Neither bytes nor UTF-16 units."""
    counted = automaton(with_length(ANY_TEXT, low, high), "plain") if low <= high else None
    for ascii_only in (False, True):
        encoded = json.dumps(text, ensure_ascii=ascii_only).encode()
        assert (counted is not None and counted.accepts(encoded)) == (low <= len(text) <= high)


def test_a_restricted_string_means_the_same_in_every_encoding() -> None:
    """An escape cannot bypass the pattern."""
    strings = automaton(dfa_of_pattern("^[^é]+$"), "plain")
    assert strings.accepts(b'"e"')
    assert not strings.accepts('"é"'.encode())
    assert not strings.accepts(b'"\\u00e9"')
    assert not strings.accepts(b'"\\u00E9"')


@given(st.lists(st.text(PRINTABLE, max_size=6), min_size=1, max_size=8, unique=True), st.text(PRINTABLE, max_size=7))
def test_a_trie_reads_its_names_only(names: list[str], other: str) -> None:
    graph = Graph(max_states=10_000)
    end = graph.state((), accepting=True)
    start = name_trie(graph, [(name, end) for name in names], 0)
    automaton = minimal_automaton(graph.rows, graph.accepting, start)
    assert automaton is not None
    for name in {*names, other}:
        assert automaton.accepts(f'{name}"'.encode()) == (name in names)


@pytest.mark.parametrize("names", [["x" * 5000], ["x" * 5000, "x" * 4999 + "y"]])
def test_a_long_name_takes_no_recursion(names: list[str]) -> None:
    properties = {name: {"type": "null"} for name in names}
    compiled = compile_schema({"type": "object", "properties": properties, "additionalProperties": False})
    assert compiled.automaton.accepts(json.dumps(dict.fromkeys(names)).encode())
