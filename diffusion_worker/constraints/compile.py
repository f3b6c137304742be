"""The compiler's front: a constraint as a request names it becomes one automaton, within a budget of states.

`compile_constraint` is deterministic: the same constraint gives the same automaton everywhere, so results can be cached
by content (see `store`) and made in another process (see `service`). Knows nothing of tokens.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from diffusion_worker.constraints.automata.automaton import DEAD, ByteAutomaton, freeze
from diffusion_worker.constraints.automata.code_point_dfa import dfa_of_tree
from diffusion_worker.constraints.automata.graph import Graph, TooLarge
from diffusion_worker.constraints.automata.minimise import EMPTY, RangeDfa, minimise
from diffusion_worker.constraints.automata.regex import Alt, NotRegular, Seq, Tree, literal, parse
from diffusion_worker.constraints.schema.builder import Builder
from diffusion_worker.constraints.schema.combine import Combiner
from diffusion_worker.constraints.schema.document import Document, Schema
from diffusion_worker.constraints.schema.json_strings import utf8_text
from diffusion_worker.constraints.schema.keywords import keyword_at
from diffusion_worker.constraints.schema.size_limits import SIZE_TIERS, SizeLimits
from diffusion_worker.constraints.schema.validation import SchemaValidator
from diffusion_worker.constraints.spec import Constraint, template_parts
from diffusion_worker.constraints.tool_calls import Function, Syntax, Thought, ToolCallRules, compile_tool_calls
from diffusion_worker.errors import InvalidRequest, UnsupportedSchema

MAX_TOOL_STATES: Final = 60_000  # of all tools of a request together, under construction
COMPILER_VERSION: Final = 2  # part of every cache key; raise it whenever an automaton may come out differently


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a compilation took and gave."""

    states: int
    edges: int  # pairs of a state and a class that lead on
    tier: int  # of the ladder of caps, 0 is the most generous
    cut: bool  # whether a cap on depth made the language smaller


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """An automaton, and which keywords it leaves to the final check."""

    automaton: ByteAutomaton
    needs_check: tuple[str, ...]
    stats: Stats


def compile_constraint(constraint: Constraint) -> Compilation:
    """The answers that satisfy a constraint. Raises InvalidRequest for one that makes no sense, UnsupportedSchema for
    one that cannot be kept or admits nothing."""
    try:
        return _compile(constraint)
    except RecursionError:
        raise UnsupportedSchema("nested too deeply", keyword=constraint.kind, pointer="") from None


def _compile(constraint: Constraint) -> Compilation:
    match constraint.kind:
        case "json_schema":
            return compile_schema(constraint.value)
        case "json_object":
            return compile_schema({"type": "object"})
        case "regex":
            return _compile_tree("regex", lambda: parse(constraint.value))
        case "choice":
            return _compile_tree("choice", lambda: _any_of(constraint.value))
        case "template":
            return _compile_tree(
                "template", lambda: Seq(tuple(_part(part) for part in template_parts(constraint.value)))
            )
        case "tools":
            return _compile_tools(constraint.value)


def compile_schema(schema: Schema, *, tiers: Sequence[SizeLimits] = SIZE_TIERS) -> Compilation:
    """The documents that satisfy a schema, in normal form, on the first rung of the ladder that holds them."""
    document, validator = Document(schema), SchemaValidator(schema)
    strict, lenient = Combiner(document, validator), Combiner(document, validator, lenient=True)
    attempts = [(tier, limits, combiner) for combiner in (strict, lenient) for tier, limits in enumerate(tiers)]
    pointer = ""
    for tier, limits, combiner in attempts:
        builder = Builder(limits, combiner)
        try:
            start = builder.document()
        except TooLarge:
            pointer = builder.pointer
            continue
        minimal = EMPTY if start is None else minimise(builder.graph.rows, builder.graph.accepting, start)
        if minimal.rows:
            return _compilation(minimal, builder.unchecked, tier=tier, cut=bool(builder.truncations))
        if not builder.truncations:
            raise UnsupportedSchema("the schema admits no value", keyword=keyword_at(""), pointer="")
    raise UnsupportedSchema(
        "the schema needs more states than the budget allows", keyword=keyword_at(pointer), pointer=pointer
    )


def _compile_tools(value: Mapping[str, Any]) -> Compilation:
    """The tools of a request, on the first rung of the ladder that holds all of them together."""
    text = [_compile(Constraint(**value["text"]))] if value["text"] else []
    for tier in range(len(SIZE_TIERS)):
        functions = [_compile_function(function, SIZE_TIERS[tier:]) for function in value["functions"]]
        rules = ToolCallRules(
            functions=[Function(name=name, arguments=compiled.automaton) for name, compiled in functions],
            syntax=Syntax(value["syntax"]),
            thought=Thought(value["thought"]),
            required=value["required"],
            parallel=value["parallel"],
            text=text[0].automaton if text else None,
        )
        try:
            minimal = compile_tool_calls(rules, max_states=MAX_TOOL_STATES)
        except TooLarge:
            continue
        parts = [*text, *(compiled for _, compiled in functions)]
        unchecked = {keyword for part in parts for keyword in part.needs_check}
        return _compilation(minimal, unchecked, tier=tier, cut=any(part.stats.cut for part in parts))
    raise UnsupportedSchema("the tools need more states than the budget allows", keyword="tools", pointer="")


def _compile_function(function: Mapping[str, Any], tiers: Sequence[SizeLimits]) -> tuple[str, Compilation]:
    """Its name and arguments. Errors name the field that they were read from."""
    try:
        compiled = compile_schema(function["parameters"], tiers=tiers)
        if compiled.automaton.walk(compiled.automaton.start, b"{") == DEAD:
            raise UnsupportedSchema("the schema admits no object", keyword="type", pointer="")
    except InvalidRequest as error:
        error.param = function["field"]
        raise
    return function["name"], compiled


def _compile_tree(kind: str, tree: Callable[[], Tree]) -> Compilation:
    graph = Graph(max_states=SIZE_TIERS[-1].states)
    try:
        language = dfa_of_tree(tree())
        start = utf8_text(graph, language) if language.rows else None
    except NotRegular as error:
        raise UnsupportedSchema(f"not supported in an expression: {error}", keyword=kind, pointer="") from None
    except TooLarge:
        raise UnsupportedSchema("needs more states than the budget allows", keyword=kind, pointer="") from None
    if start is None:
        raise UnsupportedSchema("admits no answer", keyword=kind, pointer="")
    return _compilation(minimise(graph.rows, graph.accepting, start), set(), tier=0, cut=False)


def _any_of(choices: Sequence[str]) -> Tree:
    return Alt(tuple(literal(choice) for choice in choices))


def _part(part: str | tuple[str, ...] | re.Pattern[str]) -> Tree:
    if isinstance(part, str):
        return literal(part)
    return _any_of(part) if isinstance(part, tuple) else parse(part.pattern)


def _compilation(minimal: RangeDfa, unchecked: set[str], *, tier: int, cut: bool) -> Compilation:
    automaton = freeze(minimal.rows, minimal.accepting, minimal.start)
    stats = Stats(states=automaton.states, edges=int((automaton.next >= 0).sum()), tier=tier, cut=cut)
    return Compilation(automaton=automaton, needs_check=tuple(sorted(unchecked)), stats=stats)
