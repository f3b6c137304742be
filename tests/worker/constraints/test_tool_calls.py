"""The automaton of tool calls, checked against the worker's parsers and jsonschema, in both syntaxes and for random
schemas."""

import json
import random
from typing import Any

import jsonschema
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from diffusion_worker.constraints.automata.automaton import ByteAutomaton
from diffusion_worker.constraints.automata.control_tokens import Placeholder
from diffusion_worker.constraints.compile import Compilation, compile_constraint, compile_schema
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tool_calls import Syntax, Thought
from diffusion_worker.errors import UnsupportedSchema
from diffusion_worker.text.tagged_tool_calls import TaggedCallReader
from diffusion_worker.text.tool_calls import ToolCall, read_call
from tests.worker.constraints.reference import random_member
from tests.worker.constraints.schema.test_builder import SCHEMAS

PLACEHOLDERS = {
    "<|channel>": Placeholder.THOUGHT_OPENS,
    "<channel|>": Placeholder.THOUGHT_CLOSES,
    "<|tool_call>": Placeholder.CALL_OPENS,
    "<tool_call|>": Placeholder.CALL_CLOSES,
    '<|"|>': Placeholder.QUOTE,
}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}, "größe x": {"type": "number"}},
    "required": ["city"],
    "additionalProperties": False,
}


def tools(schemas: dict[str, Any], syntax: Syntax, **rules: Any) -> Constraint:
    functions = [
        {"name": name, "parameters": schema, "field": f"tools[{at}].function.parameters"}
        for at, (name, schema) in enumerate(schemas.items())
    ]
    given = {"thought": Thought.NONE, "required": True, "parallel": False, "text": None, **rules}
    return Constraint(kind="tools", value={"functions": functions, "syntax": syntax, **given})


def compiled(schemas: dict[str, Any], syntax: Syntax, **rules: Any) -> ByteAutomaton:
    return compile_constraint(tools(schemas, syntax, **rules)).automaton


def with_placeholders(text: str) -> bytes:
    """Replace control tokens by their placeholders."""
    found = text.encode()
    for token, placeholder in PLACEHOLDERS.items():
        found = found.replace(token.encode(), bytes((placeholder,)))
    return found


def read(answer: bytes, syntax: Syntax) -> tuple[str, list[ToolCall]]:
    """The text and the calls, as the worker parses them."""
    if syntax is Syntax.TAGGED:
        reader = TaggedCallReader()
        found = [*reader.feed(answer.decode()), reader.flush()]
        return "".join(x for x in found if isinstance(x, str)), [x for x in found if isinstance(x, ToolCall)]
    text, *rest = answer.split(bytes((Placeholder.CALL_OPENS,)))
    calls = []
    for part in rest:
        inside, behind = part.split(bytes((Placeholder.CALL_CLOSES,)))
        assert not behind
        call = read_call([segment.decode() for segment in inside.split(bytes((Placeholder.QUOTE,)))])
        assert call is not None, inside
        calls.append(call)
    return text.decode(), calls


def natively(value: Any) -> str:
    """A JSON value in the released checkpoint's syntax."""
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, list):
        return f"[{','.join(map(natively, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{natively(inner)}' for key, inner in value.items())}}}"
    return json.dumps(value)


def possible(constraint: Constraint) -> Compilation:
    """Skip schemas that accept no object."""
    try:
        return compile_constraint(constraint)
    except UnsupportedSchema as error:
        assume(error.param != "tools[0].function.parameters")
        raise


@pytest.mark.slow
@given(SCHEMAS, st.sampled_from(Syntax), st.integers(0, 2**32))
def test_accepted_texts_parse_as_valid_calls(schema: Any, syntax: Syntax, seed: int) -> None:
    """Random answers of random schemas; what keywords leave to validation is left to it."""
    made = possible(tools({"f": schema, "g-2": CITY}, syntax, parallel=True))
    draw = random.Random(seed)
    for _ in range(4):
        text, calls = read(random_member(made.automaton, draw), syntax)
        assert (text, bool(calls)) == ("", True)
        for call in calls:
            arguments = json.loads(call.arguments)
            assert isinstance(arguments, dict)
            asked = {"f": schema, "g-2": CITY}[call.name]
            assert made.needs_check or jsonschema.Draft202012Validator(asked).is_valid(arguments), call


ANY_OBJECT = compile_schema({"type": "object"}).automaton
ANY_CALL = compiled({"f": {"type": "object"}}, Syntax.NATIVE)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.text(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("abc"), inner, max_size=2)),
    max_leaves=5,
)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(["x", "true", "3", "a-b.c"]), VALUES, max_size=3))
def test_every_json_object_has_a_native_form(arguments: dict[str, Any]) -> None:
    """Strings may contain any characters, also control characters and quotes: nothing is escaped."""
    assume(ANY_OBJECT.accepts(json.dumps(arguments).encode()))  # the size limits bound how deep an object may be
    answer = with_placeholders(f"<|tool_call>call:f{natively(arguments)}<tool_call|>")
    is_accepted = ANY_CALL.accepts(answer)
    assert is_accepted
    assert [json.loads(call.arguments) for call in read(answer, Syntax.NATIVE)[1]] == [arguments]


CALLS = {
    Syntax.NATIVE: '<|tool_call>call:f{city:<|"|>Oslo<|"|>}<tool_call|>',
    Syntax.TAGGED: '<tool_call>\n{"name": "f", "arguments": {"city": "Oslo"}}\n</tool_call>',
}


@pytest.mark.parametrize("syntax", Syntax)
def test_the_rules_decide_what_accompanies_a_call(syntax: Syntax) -> None:
    """Text or none, one call or several, and no text after a call."""
    call = CALLS[syntax]
    alone, free = compiled({"f": CITY}, syntax), compiled({"f": CITY}, syntax, required=False, parallel=True)
    for answer, by_must, by_choice in (
        (call, True, True),
        (call + call, False, True),
        ("", False, True),
        ("I see: ü日", False, True),
        (f"Let me look.\n<{call}", False, True),
        (f"{call}so", False, False),
        (call.replace("Oslo", "Oslo").replace("f", "h", 1), False, False),
        (call.replace("city", "town"), False, False),
        (call[:-3], False, False),
    ):
        assert (alone.accepts(with_placeholders(answer)), free.accepts(with_placeholders(answer))) == (
            by_must,
            by_choice,
        ), answer


def test_the_open_tag_occurs_only_before_a_call() -> None:
    """So no text can be parsed as a call."""
    free = compiled({"f": CITY}, Syntax.TAGGED, required=False)
    assert free.accepts(b"a <tool_call a <tool_cal<tool_ <")
    assert not free.accepts(b"the tag is <tool_call> or so")


def test_keys_with_special_characters_are_quoted() -> None:
    """Other keys may omit the quotes."""
    automaton = compiled({"f": CITY}, Syntax.NATIVE)
    quoted = '<|tool_call>call:f{<|"|>city<|"|>:<|"|>"}\\n<|"|>,<|"|>größe x<|"|>:1.5}<tool_call|>'
    assert automaton.accepts(with_placeholders(quoted))
    assert not automaton.accepts(with_placeholders(quoted.replace('<|"|>größe x<|"|>', "größe x")))


def test_a_thought_may_precede_text_or_a_call() -> None:
    """It may also continue a thought that the prompt has opened."""
    call = CALLS[Syntax.NATIVE]
    may = compiled({"f": CITY}, Syntax.NATIVE, thought=Thought.ALLOWED)
    for answer, accepted in (
        (call, True),
        (f"<|channel>thought\nhm\nso<channel|>{call}", True),
        (f"<|channel>though<channel|>{call}", False),
        (f"<|channel>thought\nhm{call}", False),
        ("<|channel>thought\nhm<channel|>", False),
    ):
        assert may.accepts(with_placeholders(answer)) is accepted, answer
    assert compiled({"f": CITY}, Syntax.NATIVE, thought=Thought.OPEN).accepts(with_placeholders(f"hm<channel|>{call}"))


@pytest.mark.parametrize("syntax", Syntax)
def test_text_without_a_call_satisfies_the_requested_format(syntax: Syntax) -> None:
    """Even where its text could start like a call."""
    automaton = compiled({"f": CITY}, syntax, required=False, text={"kind": "regex", "value": "<t[a-z]+>|[0-9]+"})
    for answer, accepted in (("42", True), ("<tool>", True), (CALLS[syntax], True), ("so", False), ("", False)):
        assert automaton.accepts(with_placeholders(answer)) is accepted, answer


@pytest.mark.parametrize(
    ("schema", "keyword", "pointer"),
    [
        ({"type": "object", "properties": {"a": {"$ref": "http://x/y"}}}, "$ref", "/properties/a/$ref"),
        ({"type": "string"}, "type", ""),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "type", ""),
    ],
)
@pytest.mark.parametrize("syntax", Syntax)
def test_unsupported_parameters_are_refused_by_field(schema: Any, keyword: str, pointer: str, syntax: Syntax) -> None:
    """With keyword and pointer within the parameters of the tool."""
    with pytest.raises(UnsupportedSchema) as refused:
        compiled({"f": CITY, "g": schema}, syntax)
    assert refused.value.param == "tools[1].function.parameters"
    if keyword == "$ref":
        assert (refused.value.keyword, refused.value.pointer) == (keyword, pointer)


@pytest.mark.slow
def test_many_tools_share_the_state_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler tries stricter size limits; if none is sufficient, all tools are refused together."""
    schemas: dict[str, Any] = {f"f{at}": {"properties": {f"p{at}": {"maxLength": 60}}} for at in range(3)}
    roomy = compile_constraint(tools(schemas, Syntax.TAGGED))
    monkeypatch.setattr("diffusion_worker.constraints.compile.MAX_TOOL_STATES", 2000)
    frugal = compile_constraint(tools(schemas, Syntax.TAGGED))
    assert roomy.stats.tier == 0 < frugal.stats.tier
    assert frugal.automaton.states < roomy.automaton.states
    monkeypatch.setattr("diffusion_worker.constraints.compile.MAX_TOOL_STATES", 20)
    with pytest.raises(UnsupportedSchema, match="`tools`"):
        compile_constraint(tools(schemas, Syntax.TAGGED))
