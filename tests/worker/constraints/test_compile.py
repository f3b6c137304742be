"""Compilation of every kind of constraint."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from diffusion_worker.constraints.automata.automaton import DEAD
from diffusion_worker.constraints.compile import compile_constraint, compile_schema
from diffusion_worker.constraints.schema.builder import Builder
from diffusion_worker.constraints.schema.combine import Combiner
from diffusion_worker.constraints.schema.document import Document
from diffusion_worker.constraints.schema.size_limits import SIZE_TIERS
from diffusion_worker.constraints.schema.validation import SchemaValidator, make_validator
from diffusion_worker.constraints.spec import Constraint, Kind, WhiteSpace
from diffusion_worker.errors import InvalidRequest, UnsupportedSchema
from tests.worker.constraints.reference import random_member

DRAFT_4 = "http://json-schema.org/draft-04/schema#"
LETTER = {
    "text": "Dear {{who}},\n{{body}}\nYours, {{by}}",
    "holes": {"who": {"choice": ["Ann", "Zoë"]}, "by": {"regex": "[A-Z]+"}},
}
MEMBERS: list[tuple[Kind, Any, list[str], list[str]]] = [
    ("json_object", None, ["{}", '{"a": [1, {"b": null}]}\n'], ["[]", "1", '{"a"}', "{'a':1}", ""]),
    ("regex", r"\d{2}|[a-c]+é", ["12", "abcé"], ["1", "123", "x12", "é"]),
    ("regex", r"\p{Lu}[\P{Letter}-]*", ["Ä1-", "A"], ["ä", "AB", "1"]),
    ("choice", ["yes", "no", "naïve"], ["yes", "no", "naïve"], ["", "ye", "yesno", '"yes"']),
    ("template", LETTER, ["Dear Zoë,\nhello!\nYours, A"], ["Dear Bob,\nhello!\nYours, A", "Dear Ann,\n\nYours, A"]),
]


@pytest.mark.parametrize(("kind", "value", "good", "bad"), MEMBERS)
def test_every_kind_accepts_exactly_its_answers(kind: Kind, value: Any, good: list[str], bad: list[str]) -> None:
    """Validation, which shares no code with the automaton, agrees."""
    constraint = Constraint(kind=kind, value=value)
    compiled, check = compile_constraint(constraint), make_validator(constraint)
    assert [text for text in good if not compiled.automaton.accepts(text.encode())] == []
    assert [text for text in bad if compiled.automaton.accepts(text.encode())] == []
    assert [text for text in good if check(text) is not None] == []
    assert [text for text in bad if check(text) is None] == []


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, value, _, _ in MEMBERS])
def test_random_answers_pass_validation(kind: Kind, value: Any) -> None:
    """Every text that the automaton accepts is valid."""
    constraint = Constraint(kind=kind, value=value)
    compiled, check, draw = compile_constraint(constraint), make_validator(constraint), random.Random(0)
    for _ in range(20):
        text = random_member(compiled.automaton, draw).decode()
        assert check(text) is None, text


def test_properties_of_unicode_are_known_in_patterns_only() -> None:
    """Not in data, and member names that look like keywords are names."""
    schema = {
        "properties": {
            "pattern": {"pattern": r"^[\p{L}\p{Zs}]+$"},
            "enum": {"pattern": r"^\p{gc=Nd}$"},
            "k": {"const": r"\p{L}"},
        },
        "patternProperties": {r"^\P{ASCII}": {"type": "null"}},
    }
    compiled, validator = compile_schema(schema), SchemaValidator(schema)
    for good, bad in [("é x", "1"), ("٣", "x"), (r"\p{L}", "é")]:
        name = {"é x": "pattern", "٣": "enum"}.get(good, "k")
        for value, accepted in (({name: good}, True), ({name: bad}, False), ({"é": None}, True), ({"é": 1}, False)):
            assert compiled.automaton.accepts(json.dumps(value, ensure_ascii=False).encode()) is accepted, value
            assert (validator.violation(value) is None) is accepted


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (Constraint(kind="regex", value=r"(a)\1"), "escape"),
        (Constraint(kind="regex", value="[^\\s\\S]"), "accepts no answer"),
        (Constraint(kind="choice", value=[]), "accepts no answer"),
        (Constraint(kind="template", value={"text": "{{a}}", "holes": {"b": {"choice": ["x"]}}}), "no hole 'b'"),
        (Constraint(kind="template", value={"text": "{{a}}", "holes": {"a": {}, "b": {}}}), "no hole 'b'"),
        (Constraint(kind="template", value={"text": "{{a}}", "holes": {"a": {"choice": []}}}), "needs a `regex`"),
        (Constraint(kind="json_schema", value={"type": "strnig"}), "not a valid schema"),
        (Constraint(kind="json_schema", value={"$ref": "https://example.org/s"}), "does not resolve within"),
        (Constraint(kind="json_schema", value={"$ref": "#/$defs/none"}), "does not resolve within"),
        (Constraint(kind="json_schema", value={"$ref": "#"}), "infinite"),
        (
            Constraint(kind="json_schema", value={"items": {"pattern": "\\p{Script=Greek}"}}),
            r"is not a 'regex' \(at `#/items/pattern`\)",
        ),
        (
            Constraint(kind="json_schema", value={"$schema": DRAFT_4, "patternProperties": {"(": {}}}),
            "`patternProperties` at `#`",
        ),
    ],
)
def test_unsupported_constraints_are_refused_by_name(constraint: Constraint, message: str) -> None:
    """With a 400, before anything is generated."""
    with pytest.raises(InvalidRequest, match=message) as caught:
        compile_constraint(constraint)
    assert caught.value.status == 400


def test_a_refusal_names_keyword_and_pointer() -> None:
    """So that the client can fix the schema."""
    schema = {"properties": {"a/b": {"items": {"$ref": "other.json"}}}}
    with pytest.raises(UnsupportedSchema) as caught:
        compile_schema(schema)
    assert (caught.value.keyword, caught.value.pointer) == ("$ref", "/properties/a~1b/items/$ref")
    assert caught.value.code == "unsupported_schema"


NESTED = {
    "properties": {"a": {"items": {"type": "integer"}}, "b": {"enum": [{"x": [1, {"y": 2}]}]}, "c": {}},
    "additionalProperties": False,
}
VALUE = {"a": [1, 2], "b": {"x": [1, {"y": 2}]}, "c": {"free": [[], {}, [0]]}}


@pytest.mark.parametrize(
    "layout", [{"indent": 2}, {"indent": "\t"}, {"separators": (",", ":")}, {"separators": (" , ", " : ")}]
)
def test_any_json_layout_is_accepted_if_the_request_says_so(layout: dict[str, Any]) -> None:
    """White space wherever JSON allows it."""
    text = json.dumps(VALUE, **layout)
    automaton = compile_schema(NESTED, white_space=WhiteSpace.ANY).automaton
    assert automaton.accepts(f"\n {text}\r\n".encode())
    assert automaton.accepts(f"{' ' * 500}{text}{' ' * 500}".encode())


@pytest.mark.parametrize("layout", [{}, {"separators": (",", ":")}, {"indent": 2}, {"indent": 4}])
@pytest.mark.parametrize("end", ["", "\n"])
def test_the_layouts_that_serialisers_write_are_accepted(layout: dict[str, Any], end: str) -> None:
    assert compile_schema(NESTED).automaton.accepts((json.dumps(VALUE, **layout) + end).encode())


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ('{"a":1}', True),
        ('{ "a": 1 }', True),
        ('{\n  "a": 1\n}', True),
        ('{\n    "a": 1\n}\n', True),
        ('{"a" :1}', False),
        ('{"a":  1}', False),
        ('{"a":\n1}', False),
        ('{\n   "a": 1\n}', False),
        ('{\n\t"a": 1\n}', False),
        ('{\r\n  "a": 1\r\n}', False),
        ('{\n\n  "a": 1\n}', False),
        (' {"a":1}', False),
        ('{"a":1} ', False),
        ('{"a":1}\n\n', False),
    ],
)
def test_bounded_white_space_is_what_the_page_says(text: str, accepted: bool) -> None:
    """`docs/reference/json-schema.md`, in the normal form."""
    schema = {"properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False, "type": "object"}
    assert compile_schema(schema).automaton.accepts(text.encode()) is accepted
    assert compile_schema(schema, white_space=WhiteSpace.ANY).automaton.accepts(text.encode())


def longest_white_space(constraint: Constraint) -> int:
    """The longest run of white space outside strings, on any path of the automaton."""
    automaton = compile_constraint(constraint).automaton
    white = [automaton.classes[byte] for byte in b" \t\n\r"]
    targets = [{int(row[column]) for column in white} - {DEAD} for row in automaton.next]
    inside = {state for state, row in enumerate(automaton.next) if row[automaton.classes[ord("z")]] != DEAD}
    longest = 0
    level = set(range(automaton.states)) - inside
    while level := {target for state in level for target in targets[state]} - inside:
        longest += 1
        assert longest < 1000, "unbounded"
    return longest


@pytest.mark.parametrize(
    "schema",
    [NESTED, {"type": "object"}, {}, {"enum": [[1, {"a": [2]}]]}, {"type": "array", "items": {"type": "null"}}],
)
def test_no_answer_contains_a_long_run_of_white_space(schema: dict[str, Any]) -> None:
    """A newline, and at most four spaces per level."""
    found = longest_white_space(Constraint(kind="json_schema", value=schema))
    assert 0 < found <= 1 + 4 * 6


def test_white_space_around_calls_is_bounded_as_well() -> None:
    value = {
        "functions": [{"name": "f", "parameters": {"type": "object"}, "field": "tools"}],
        "syntax": "tagged", "thought": "none", "required": True, "parallel": True, "text": None,
    }  # fmt: skip
    constraint = Constraint(kind="tools", value=value)
    assert longest_white_space(constraint) <= 1 + 4 * 6
    automaton = compile_constraint(constraint).automaton
    call = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    hermes = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert automaton.accepts(f"{call}\n{hermes}{call}".encode())


def test_recursion_is_unrolled_to_a_reported_limit() -> None:
    """To the recursion limit of the tier; nothing deeper is accepted."""
    tree = {
        "$ref": "#/$defs/t",
        "$defs": {"t": {"type": "object", "properties": {"t": {"$ref": "#/$defs/t"}}, "additionalProperties": False}},
    }
    compiled = compile_schema(tree)
    assert compiled.stats.truncated
    depth = SIZE_TIERS[compiled.stats.tier].recursion
    for levels, accepted in ((1, True), (depth + 1, True), (depth + 2, False)):
        assert compiled.automaton.accepts(('{"t":' * (levels - 1) + "{}" + "}" * (levels - 1)).encode()) == accepted


@pytest.mark.parametrize(
    ("schema", "is_cut"),
    [
        ({}, True),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, True),
        ({"type": "array"}, True),
        ({"properties": {"a": {"type": "integer"}}, "additionalProperties": False, "type": "object"}, False),
        ({"type": "object", "additionalProperties": {"type": "string"}}, False),
        ({"type": "array", "items": {"type": "boolean"}}, False),
    ],
)
def test_values_that_are_left_out_because_of_their_depth_are_reported(schema: dict[str, Any], is_cut: bool) -> None:
    """Also those of values and members that the schema does not describe."""
    assert compile_schema(schema).stats.truncated is is_cut


DRAFT = "http://json-schema.org/draft-0{}/schema#"


@pytest.mark.parametrize(
    ("dialect", "keyword", "is_base"),
    [
        (DRAFT.format(4), "id", True),
        (DRAFT.format(4), "$id", False),
        (DRAFT.format(6), "id", False),
        (DRAFT.format(7), "$id", True),
        ("https://json-schema.org/draft/2020-12/schema", "id", False),
        ("https://json-schema.org/draft/2020-12/schema", "$id", True),
    ],
)
def test_the_base_of_references_is_what_the_draft_says(dialect: str, keyword: str, is_base: bool) -> None:
    """`id` up to draft 5, `$id` from draft 6 on; the other one is an annotation."""
    schema = {
        "$schema": dialect,
        "definitions": {"a": {"type": "integer"}},
        "items": {
            keyword: "http://other/",
            "definitions": {"a": {"type": "null"}},
            "items": {"$ref": "#/definitions/a"},
        },
        "type": "array",
        "minItems": 1,
    }
    accepted = compile_schema(schema).automaton
    assert accepted.accepts(b"[[null]]" if is_base else b"[[1]]")
    assert not accepted.accepts(b"[[1]]" if is_base else b"[[null]]")


def test_optional_members_do_not_double_the_states() -> None:
    """A hundred of them take about twice as many states as fifty, not 2^50 times."""

    def states(count: int) -> int:
        members = {f"member_{index:03}": {"type": "integer"} for index in range(count)}
        return compile_schema({"type": "object", "properties": members, "additionalProperties": False}).stats.states

    assert states(100) < 2.5 * states(50)


def test_a_large_schema_takes_a_stricter_tier() -> None:
    """Instead of being refused."""
    free = {f"m{index}": {"type": "object", "properties": {"a": {"maxLength": 40}}} for index in range(40)}
    compiled = compile_schema({"type": "object", "properties": free})
    assert compiled.stats.tier > 0
    assert compiled.automaton.accepts(b'{"m0": {"a": "b"}, "m39": {}}')


DENSE = [tier for tier, limits in enumerate(SIZE_TIERS) if limits.dense]


def tall(levels: int) -> dict[str, Any]:
    """Objects in objects, two members each, and undeclared ones."""
    if levels == 0:
        return {"type": "string"}
    return {"type": "object", "properties": {name: tall(levels - 1) for name in ("one", "two")}}


@pytest.mark.parametrize("states", [600, 4000, 20_000])
def test_a_document_takes_the_states_that_there_are(states: int) -> None:
    """No more than them, and most of them where it needs more."""
    compiled = compile_schema(tall(9), tiers=[replace(SIZE_TIERS[DENSE[0]], states=states)])
    assert states / 2 < compiled.stats.states <= states
    assert compiled.stats.truncated


def test_a_schema_whose_root_does_not_fit_is_refused() -> None:
    with pytest.raises(UnsupportedSchema, match="state budget"):
        compile_schema(tall(1), tiers=[replace(SIZE_TIERS[DENSE[0]], states=20)])


def test_a_larger_schema_is_cut_in_depth_and_not_in_breadth() -> None:
    """It keeps undeclared members, and the values of the upper levels. What is cut may be empty."""
    compiled = compile_schema(tall(6), tiers=[replace(SIZE_TIERS[DENSE[0]], states=3000)])
    assert compiled.stats.truncated
    assert compiled.automaton.accepts(b'{"one": {"two": {"one": {"two": {}}}}, "other": 1, "others": {}}')
    assert not compiled.automaton.accepts(b'{"one": {"two": {"one": {"two": {"one": {"two": "a"}}}}}}')


def test_a_small_value_is_complete_beside_a_large_one() -> None:
    """However deep it is: `large` is recursive in nine members, `small` is a chain of ten objects."""
    small: dict[str, Any] = {"type": "string"}
    for _ in range(10):
        small = {"type": "object", "properties": {"a": small}, "additionalProperties": False}
    large = {"type": "object", "properties": {f"m{index}": {"$ref": "#/$defs/large"} for index in range(9)}}
    schema = {"type": "object", "properties": {"large": {"$ref": "#/$defs/large"}, "small": small}}
    compiled = compile_schema(schema | {"$defs": {"large": large}}, tiers=[replace(SIZE_TIERS[DENSE[0]], states=5000)])
    deep = b'{"a": ' * 10 + b'"b"' + b"}" * 10
    assert compiled.automaton.accepts(b'{"large": {"m0": {}, "m8": {}}, "small": %s, "other": [1, {"a": [2]}]}' % deep)


def test_an_alternative_that_requires_itself_leaves_the_others() -> None:
    """It has no value of finite depth, and takes no states from the others."""
    endless = {"type": "object", "properties": {"not": {"$ref": "#/$defs/endless"}}, "required": ["not"]}
    plain = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    schema = {"anyOf": [{"$ref": "#/$defs/endless"}, plain], "$defs": {"endless": endless}}
    compiled = compile_schema(schema, tiers=[SIZE_TIERS[DENSE[0]]])
    assert compiled.automaton.accepts(b'{"a": 1}')
    assert not compiled.automaton.accepts(b'{"not": {}}')


@pytest.mark.parametrize("count", [2, 5])
def test_alternatives_keep_the_values_of_each_other_where_they_begin_alike(count: int) -> None:
    """The list in `a` belongs to the alternative that `k` names after it."""
    options = [
        {"type": "object", "properties": {"a": {"type": "array", "items": {"const": n}}, "k": {"const": n}}}
        for n in range(count)
    ]
    closed = [option | {"additionalProperties": False, "required": ["a", "k"]} for option in options]
    compiled = compile_schema({"anyOf": closed}, tiers=[SIZE_TIERS[DENSE[0]]])
    for n in range(count):
        assert compiled.automaton.accepts(b'{"a": [%d, %d], "k": %d}' % (n, n, n))
        assert not compiled.automaton.accepts(b'{"a": [%d], "k": %d}' % (n, (n + 1) % count))


def test_a_reference_that_is_reached_must_resolve() -> None:
    schema = {"type": "object", "properties": {"a": {"properties": {"b": {"$ref": "#/$defs/none"}}}}}
    with pytest.raises(UnsupportedSchema, match="does not resolve") as caught:
        compile_schema(schema, tiers=[SIZE_TIERS[DENSE[0]]])
    assert caught.value.pointer == "/properties/a/properties/b/$ref"


def test_a_least_number_of_members_does_not_double_the_states() -> None:
    """The first undeclared member has no states of its own."""

    def under_construction(schema: dict[str, Any]) -> int:
        builder = Builder(SIZE_TIERS[0], Combiner(Document(schema), SchemaValidator(schema)))
        builder.build()
        return len(builder.graph.rows)

    value = {"type": "object", "properties": {f"member_{index}": {"type": "integer"} for index in range(50)}}
    many = {"type": "object", "additionalProperties": value}
    assert under_construction(many | {"minProperties": 1}) < 1.1 * under_construction(many)
    least, most = compile_schema(many | {"minProperties": 1}), compile_schema(many | {"maxProperties": 2})
    for text in (b'{"a": {}}', b'{"a": {}, "b": {}}'):
        assert least.automaton.accepts(text)
        assert most.automaton.accepts(text)
    assert not least.automaton.accepts(b"{}")
    assert most.automaton.accepts(b"{}")
    assert not most.automaton.accepts(b'{"a": {}, "b": {}, "c": {}}')


def test_overlapping_alternatives_take_what_remains_of_them() -> None:
    """Twenty alternatives with the same members take about the states of one, not of twenty."""

    def built(count: int) -> int:
        members = {f"member_{index}": {"type": "integer"} for index in range(30)}
        options = [{"type": "object", "properties": members | {"kind": {"const": f"k{n}"}}} for n in range(count)]
        schema = {"type": "array", "items": {"anyOf": options}}
        builder = Builder(SIZE_TIERS[2], Combiner(Document(schema), SchemaValidator(schema)))
        builder.build()
        return len(builder.graph.rows)

    assert built(20) < 2 * built(1)


def test_nested_arrays_do_not_double_the_states() -> None:
    """The first item has no states of its own."""

    def under_construction(levels: int) -> int:
        schema: Any = {"type": "integer"}
        for _ in range(levels):
            schema = {"type": "array", "items": schema}
        combiner = Combiner(Document(schema), SchemaValidator(schema))
        builder = Builder(SIZE_TIERS[0], combiner)
        builder.build()
        return len(builder.graph.rows)

    assert under_construction(12) < 4 * under_construction(6)


def test_small_recursive_schemas_are_unrolled_further_than_large_ones() -> None:
    tree = {"type": "object", "properties": {"child": {"$ref": "#"}}, "additionalProperties": False}
    wide = tree | {"properties": {f"child{index}": {"$ref": "#"} for index in range(9)}}
    deep = '{"child%s": ' * 6 + "{}" + "}" * 6
    assert compile_schema(tree).automaton.accepts(deep.replace("%s", "").encode())
    assert not compile_schema(wide).automaton.accepts(deep.replace("%s", "0").encode())


def test_compilation_is_deterministic() -> None:
    """The same table each time, so results can be cached by content."""
    schema = {
        "anyOf": [{"type": "object", "properties": {"a": {"enum": [1, "x"]}}}, {"type": "string", "maxLength": 3}]
    }
    one, two = (compile_schema(schema).automaton for _ in range(2))
    assert (one.next.tobytes(), one.classes.tobytes()) == (two.next.tobytes(), two.classes.tobytes())


def test_a_lone_surrogate_in_a_schema_is_never_written() -> None:
    """No UTF-8 text contains one."""
    compiled = compile_schema({"enum": ["\ud800", "a"]})
    assert compiled.automaton.accepts(b'"a"')
    assert not compiled.automaton.accepts(b'"\xed\xa0\x80"')
    assert not compiled.automaton.accepts(b'"\\ud800"')


def test_nan_and_infinity_are_refused() -> None:
    """Python's reader takes NaN and Infinity for numbers; a schema must not bring them in."""
    for value in (float("nan"), float("inf")):
        with pytest.raises(InvalidRequest, match="NaN or an infinite number"):
            Constraint(kind="json_schema", value={"minimum": value}).content()
