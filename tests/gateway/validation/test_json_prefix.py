"""The incremental JSON parser agrees with a real one, however the text is split."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.validation.json_prefix import MAX_DEPTH, JsonPrefix

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)
documents = st.builds(lambda value, indent: json.dumps(value, indent=indent), values, st.sampled_from([None, 1]))
near_json = st.text(alphabet='{}[]",:\\/truefalsn0123456789+-.eE u\n\x00é', max_size=30)
mangled = st.builds(
    lambda text, at, with_: text[: at % (len(text) + 1)] + with_ + text[at % (len(text) + 1) + 1 :],
    documents,
    st.integers(0, 200),
    st.text(alphabet='{}[]",:\\0 -.e', max_size=2),
)


def fed(*pieces: str) -> JsonPrefix:
    prefix = JsonPrefix()
    for piece in pieces:
        prefix.feed(piece)
    return prefix


def refuse(constant: str) -> None:
    raise ValueError(constant)


def parses(text: str) -> bool:
    """The result of a parser whose only extensions to the grammar, NaN and the like, are disabled."""
    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True


@given(near_json | documents | mangled)
@example("-0.0e-10")
@example('{"a":1,}')
@example("[1 2]")
@example("01")
@example("NaN")
@example("-Infinity")
@example('"\\ud800"')
@example("1e400")
@example('"\\u12G4"')
@example("")
def test_it_accepts_exactly_what_a_parser_accepts(text: str) -> None:
    assert fed(text).is_complete is parses(text)


@given(documents | mangled | near_json)
def test_the_result_is_the_same_for_the_whole_text_and_for_single_characters(text: str) -> None:
    whole, piecewise = fed(text), fed(*text)
    assert (whole.error_at, whole.is_complete) == (piecewise.error_at, piecewise.is_complete)


@given(documents, st.data())
def test_every_prefix_of_a_document_is_viable(text: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(text)))
    assert fed(text[:cut]).error_at is None


@given(mangled | near_json)
def test_a_text_is_viable_before_its_error_and_not_after_it(text: str) -> None:
    fault_at = fed(text).error_at
    if fault_at is not None:
        assert fed(text[:fault_at]).error_at is None
        assert fed(text[: fault_at + 1]).error_at == fault_at


@pytest.mark.parametrize(
    ("text", "fault_at"),
    [
        ("Sure! {", 0),
        ('{"a" 1}', 5),
        ("[1,]", 3),
        ('{"a":1}}', 7),
        ("nul ", 3),
        ('"a\nb"', 2),
        ("[}", 1),
        ("1.x", 2),
        ("{1:2}", 1),
        ("{true:2}", 1),
    ],
)
def test_the_error_is_at_the_first_impossible_character(text: str, fault_at: int) -> None:
    prefix = JsonPrefix()
    assert prefix.feed(text) is False
    assert prefix.error_at == fault_at
    assert not prefix.is_complete


def test_nothing_after_an_error_matters() -> None:
    assert fed("x", '{"a": 1}').error_at == 0


def test_depth_is_bounded() -> None:
    assert fed("[" * MAX_DEPTH).error_at is None
    assert fed("[" * (MAX_DEPTH + 1)).error_at == MAX_DEPTH
