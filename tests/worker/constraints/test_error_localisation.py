"""Error localisation: the characters that a violation refers to."""

import json

from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from diffusion_worker.constraints.error_localisation import span_of, values
from diffusion_worker.constraints.schema.validation import SchemaValidator

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(value=ANY, indent=st.sampled_from([None, 0, 3]))
def test_every_value_has_its_span(value: object, indent: int | None) -> None:
    text = f" {json.dumps(value, indent=indent)}\n"
    for place, start, end in values(text):
        inner = value
        for key in place:
            inner = inner[key]  # type: ignore[index]
        assert json.loads(text[start:end]) == inner


def test_a_violation_of_jsonschema_names_the_span() -> None:
    schema = {"properties": {"it's a: [key]": {"items": {"properties": {"n": {"type": "integer"}}}}}}
    text = '{"other": 1, "it\'s a: [key]": [{"n": 1}, {"n":  "x"}]}'
    violation = SchemaValidator(schema).violation_of_text(text)
    assert violation is not None
    assert not Draft202012Validator(schema).is_valid(json.loads(text))
    span = span_of(text, violation)
    assert span is not None
    assert text[slice(*span)] == '"x"'


def test_a_violation_without_a_path_has_no_span() -> None:
    assert span_of("[1, 1]", "not one of the choices") is None
    for broken in ("", "[1,", '{"a"', "[1 2"):
        assert span_of(broken, "$: wrong") is None
    assert span_of("[1, 1]", "$: not unique") == (0, 6)
