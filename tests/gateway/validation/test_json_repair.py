"""JSON repair: only unambiguous syntax, and never valid JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.validation.json_repair import MAX_CHARS, repair

documents = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=4),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.text(max_size=3), inner, min_size=1),
    max_leaves=8,
).map(json.dumps)


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ('{"a": [1, 2', '{"a": [1, 2]}'),
        ('{"a": {"b": "c"}', '{"a": {"b": "c"}}'),
        ("[1, 2, ]", "[1, 2 ]"),
        ('{"a": 1,\n}', '{"a": 1\n}'),
        ('{"a": [1,], "b": {"c": 1,}', '{"a": [1], "b": {"c": 1}}'),
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ('```\n{"a": 1}\n```\n', '{"a": 1}'),
        ('```json\n{"a": 1', '{"a": 1}'),
        ('["]", "}"', '["]", "}"]'),
        ('[",]", "a\\",]" , ]', '[",]", "a\\",]" ]'),
        ("[[1,],[2,],[{},],]", "[[1],[2],[{}]]"),
    ],
)
def test_unambiguous_syntax_is_repaired(text: str, repaired: str) -> None:
    assert repair(text) == repaired


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "b',  # the string may be truncated
        '{"a": tru',
        '{"a":',
        '{"a": 1, ',
        "[",
        "[1 2]",
        "{'a': 1}",
        '{"a": 1}}',
        '{"a": 1] }',
        "[,]",
        "Sure! {}",
        '```json\n{"a": 1}\n``` and ```json\n{"a": 2}\n```',
        "",
        "[1,, 2]",
        '{"a":, }',
        "[" + "1," * (MAX_CHARS // 2) + "1",
        "[1" * 600,
    ],
)
def test_ambiguous_syntax_is_not_repaired(text: str) -> None:
    assert repair(text) is None


@given(documents)
def test_valid_json_is_not_changed(text: str) -> None:
    assert repair(text) is None


@given(documents, st.integers(1, 5))
def test_brackets_missing_at_the_end_come_back_as_they_were(text: str, most: int) -> None:
    cut = text
    for _ in range(most):
        if cut[-1] not in "]}":
            break
        cut = cut[:-1].rstrip()
    if cut != text and cut[-1:] not in ("[", "{", ","):
        assert json.loads(repair(cut) or "null") == json.loads(text)


@given(st.text(alphabet='{}[]",:1 \n`', max_size=25))
def test_repaired_text_is_json_and_needs_no_further_repair(text: str) -> None:
    repaired = repair(text)
    if repaired is not None:
        json.loads(repaired)
        assert repair(repaired) is None
