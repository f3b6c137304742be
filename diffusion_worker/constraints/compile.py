"""The constraint compiler: a constraint becomes one minimal byte automaton within a budget of states.

Deterministic: equal constraints give equal automata in every process, so results are cached by content and compiled in
another process (see `constraint_service`). Token compilation follows in `compiled`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from diffusion_worker.constraints.automata.automaton import DEAD, ByteAutomaton
from diffusion_worker.constraints.automata.code_point_dfa import dfa_of_tree
from diffusion_worker.constraints.automata.graph import Graph, TooLarge
from diffusion_worker.constraints.automata.minimise import minimal_automaton
from diffusion_worker.constraints.automata.regex import Alt, NotRegular, Seq, Tree, literal, parse
from diffusion_worker.constraints.automata.unicode_properties import without_properties
from diffusion_worker.constraints.schema.allotments import Allotments, Place, Profile
from diffusion_worker.constraints.schema.builder import Builder
from diffusion_worker.constraints.schema.combine import Combiner
from diffusion_worker.constraints.schema.document import Document, Schema
from diffusion_worker.constraints.schema.json_strings import utf8_text
from diffusion_worker.constraints.schema.keywords import keyword_at
from diffusion_worker.constraints.schema.outlines import Outlines
from diffusion_worker.constraints.schema.size_limits import SIZE_TIERS, SizeLimits
from diffusion_worker.constraints.schema.validation import SchemaValidator
from diffusion_worker.constraints.spec import Constraint, WhiteSpace, template_parts
from diffusion_worker.constraints.tool_calls import Function, Syntax, Thought, ToolCallRules, compile_tool_calls
from diffusion_worker.errors import InvalidRequest, UnsupportedSchema

_ATTEMPTS: Final = 2  # to make unconstrained values deeper
_DENSE_ATTEMPTS: Final = 5
_MAX_REDUNDANCY: Final = 2.0
_MAX_OVERRUN: Final = 1.5  # of the states for depth, by an attempt that interpolates
_FILL: Final = 0.9  # of the states that an attempt aims at
_MIN_GROWTH, _MAX_GROWTH = 1.2, 8.0  # of an attempt
_EMPTY: Final = Profile()
MAX_TOOL_STATES: Final = 60_000  # under construction, for all tools of a request together
MAX_TREE_STATES: Final = 150_000  # under construction, for a regular expression, choice or template
_Found = tuple[int, Builder]  # a tier, and what was built within its limits
COMPILER_VERSION: Final = 8  # part of every cache key; raise it whenever the compiler may produce a different automaton


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Statistics of a compilation."""

    states: int
    edges: int  # pairs of a state and a byte class with a transition
    tier: int  # of size limits, 0 is the most generous
    # whether a validator may accept values that the automaton rejects in every order of members: values nested deeper
    # than the limits, also unconstrained ones; strings of a `format`, or on which regular expression engines disagree
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """A byte automaton, and the keywords that only validation of the whole answer checks."""

    automaton: ByteAutomaton
    needs_check: tuple[str, ...]
    stats: Stats


def compile_constraint(constraint: Constraint) -> Compilation:
    """Compile a constraint. Raises InvalidRequest if it is malformed, UnsupportedSchema if it is not supported or
    accepts nothing."""
    try:
        return _compile(constraint)
    except RecursionError:
        raise UnsupportedSchema("nested too deeply", keyword=constraint.kind, pointer="") from None


def _compile(constraint: Constraint) -> Compilation:
    match constraint.kind:
        case "json_schema":
            return compile_schema(constraint.value, white_space=constraint.white_space)
        case "json_object":
            return compile_schema({"type": "object"}, white_space=constraint.white_space)
        case "regex":
            return _compile_tree("regex", lambda: parse(without_properties(constraint.value)))
        case "choice":
            return _compile_tree("choice", lambda: _any_of(constraint.value))
        case "template":
            return _compile_tree(
                "template", lambda: Seq(tuple(_part(part) for part in template_parts(constraint.value)))
            )
        case "tools":
            return _compile_tools(constraint.value, constraint.white_space)


def compile_schema(
    schema: Schema,
    *,
    tiers: Sequence[SizeLimits] = SIZE_TIERS,
    white_space: WhiteSpace = WhiteSpace.BOUNDED,
) -> Compilation:
    """Compile a schema to its documents in normal form, on the first tier whose state budget is sufficient."""
    document, validator = Document(schema), SchemaValidator(schema)
    strict, lenient = Combiner(document, validator), Combiner(document, validator, lenient=True)
    search = _Search(tiers, white_space)
    for combiner in (strict, lenient):
        if combiner is lenient and not strict.has_exclusions:
            break  # the same once more
        found = search.find(combiner)
        if found is None:
            continue
        tier, builder = found
        automaton = minimal_automaton(builder.graph.rows, builder.graph.accepting, builder.start)
        if automaton is not None:
            findings = builder.findings
            return _compilation(automaton, findings.unchecked, tier=tier, truncated=findings.is_cut)
        if not builder.truncations:
            raise UnsupportedSchema("the schema accepts no value", keyword=keyword_at(""), pointer="")
    pointer = search.pointer
    raise UnsupportedSchema("the schema exceeds the state budget", keyword=keyword_at(pointer), pointer=pointer)


class _Search:
    """The search for the first tier whose state budget is sufficient. `pointer`: where a build became too large."""

    def __init__(self, tiers: Sequence[SizeLimits], white_space: WhiteSpace) -> None:
        self._tiers, self._white_space = tiers, white_space
        self._generous = sum(not limits.dense for limits in tiers)
        self.pointer = ""

    def find(self, combiner: Combiner) -> _Found | None:
        """The tier and its build."""
        for tier in range(self._generous):
            if (built := self._build(self._tiers[tier], combiner)) is not None:
                return tier, self._deepened(built)
        if self._generous == len(self._tiers):
            return None
        built = self._densest(self._tiers[self._generous], combiner)
        return None if built is None else (self._generous, built)

    def _deepened(self, builder: Builder) -> Builder:
        """The same build with unconstrained values as deep as the states suffice."""
        limits, profiles = builder.limits, builder.profiles
        allotments = Allotments(lambda place: profiles.get(place, _EMPTY), is_cut=False)
        root = Place((builder.combiner.document.root,))
        found, states = builder, limits.free_states
        deep = replace(limits, states=limits.states + 2 * states)  # alternatives may be copies of each other
        for _ in range(_ATTEMPTS if allotments.need(root, 1) else 0):
            built = self._build(deep, builder.combiner, allotments, states)
            if built is None:
                states //= 2
                continue
            used = len(built.graph.rows) - len(builder.graph.rows)
            if found is not builder and used > _MAX_OVERRUN * limits.free_states:
                break
            found = built
            if allotments.need(root, states + 1) <= states or used > limits.free_states // 2:
                break
            states = int(states * min(_FILL * limits.free_states / max(used, 1), _MAX_GROWTH))
        return found

    def _densest(self, limits: SizeLimits, combiner: Combiner) -> Builder | None:
        """The largest build for which the states suffice, by interpolation. Alternatives that overlap leave states
        which minimisation removes, so more of them are allowed under construction than a document gets."""
        room = replace(limits, states=int(_MAX_REDUNDANCY * limits.states))
        allotments = Allotments(Outlines(limits, combiner, self._white_space).profile, is_cut=True)
        root, found = Place((combiner.document.root,)), None
        low, high, states = 0, 0, limits.states  # the largest that fits, and the least that does not
        for _ in range(_DENSE_ATTEMPTS):
            fits = states >= allotments.least(root)
            built = self._build(room, combiner, allotments, states) if fits else None
            if built is None or (found and len(built.graph.rows) > limits.states):
                high = states
                states = (low + high) // 2 if found else states // 4
            else:
                found, low = built, states
                if allotments.need(root, states + 1) <= states:
                    break
                growth = min(_FILL * limits.states / len(built.graph.rows), _MAX_GROWTH)
                states = int(states * growth) if high == 0 else min(int(states * growth), (low + high) // 2)
            if states < _MIN_GROWTH * low:
                break
        return found

    def _build(
        self, limits: SizeLimits, combiner: Combiner, allotments: Allotments | None = None, states: int = 0
    ) -> Builder | None:
        builder = Builder(limits, combiner, self._white_space, allotments)
        try:
            builder.build(states)
        except TooLarge:
            self.pointer = builder.pointer
            return None
        return builder


def _compile_tools(value: Mapping[str, Any], white_space: WhiteSpace) -> Compilation:
    """Compile the tools of a request, on the first tier whose state budget is sufficient for all of them. They share
    its states for deep unconstrained values."""
    text = [_compile(Constraint(**value["text"]))] if value["text"] else []
    share = max(len(value["functions"]), 1)
    tiers = [replace(limits, free_states=limits.free_states // share) for limits in SIZE_TIERS]
    for tier in range(len(SIZE_TIERS)):
        functions = [_compile_function(function, tiers[tier:], white_space) for function in value["functions"]]
        rules = ToolCallRules(
            functions=[Function(name=name, arguments=compiled.automaton) for name, compiled in functions],
            syntax=Syntax(value["syntax"]),
            thought=Thought(value["thought"]),
            required=value["required"],
            parallel=value["parallel"],
            text=text[0].automaton if text else None,
            white_space=white_space,
        )
        try:
            automaton = compile_tool_calls(rules, max_states=MAX_TOOL_STATES)
        except TooLarge:
            continue
        if automaton is None:
            raise UnsupportedSchema("no answer follows the rules for tools", keyword="tools", pointer="")
        parts = [*text, *(compiled for _, compiled in functions)]
        unchecked = {keyword for part in parts for keyword in part.needs_check}
        return _compilation(automaton, unchecked, tier=tier, truncated=any(part.stats.truncated for part in parts))
    raise UnsupportedSchema("the tools exceed the state budget", keyword="tools", pointer="")


def _compile_function(
    function: Mapping[str, Any], tiers: Sequence[SizeLimits], white_space: WhiteSpace
) -> tuple[str, Compilation]:
    """The function's name and compiled parameters. Errors name the request field."""
    try:
        compiled = compile_schema(function["parameters"], tiers=tiers, white_space=white_space)
        if compiled.automaton.walk(compiled.automaton.start, b"{") == DEAD:
            raise UnsupportedSchema("the schema accepts no object", keyword="type", pointer="")
    except InvalidRequest as error:
        error.param = function["field"]
        raise
    return function["name"], compiled


def _compile_tree(kind: str, tree: Callable[[], Tree]) -> Compilation:
    graph = Graph(max_states=MAX_TREE_STATES)
    try:
        language = dfa_of_tree(tree())
        start = utf8_text(graph, language) if language.rows else None
    except NotRegular as error:
        raise UnsupportedSchema(f"not supported in a regular expression: {error}", keyword=kind, pointer="") from None
    except TooLarge:
        raise UnsupportedSchema("exceeds the state budget", keyword=kind, pointer="") from None
    if start is None:
        raise UnsupportedSchema("accepts no answer", keyword=kind, pointer="")
    automaton = minimal_automaton(graph.rows, graph.accepting, start)
    if automaton is None:
        raise UnsupportedSchema("accepts no answer", keyword=kind, pointer="")
    return _compilation(automaton, set(), tier=0, truncated=False)


def _any_of(choices: Sequence[str]) -> Tree:
    return Alt(tuple(literal(choice) for choice in choices))


def _part(part: str | tuple[str, ...] | re.Pattern[str]) -> Tree:
    if isinstance(part, str):
        return literal(part)
    return _any_of(part) if isinstance(part, tuple) else parse(part.pattern)


def _compilation(automaton: ByteAutomaton, unchecked: set[str], *, tier: int, truncated: bool) -> Compilation:
    stats = Stats(states=automaton.states, edges=int((automaton.next >= 0).sum()), tier=tier, truncated=truncated)
    return Compilation(automaton=automaton, needs_check=tuple(sorted(unchecked)), stats=stats)
