"""The automaton of answers that call tools: text, a thought, and calls with valid arguments, in either syntax.

    native      call:weather{city:<|"|>Oslo<|"|>}, between control tokens: the syntax of the released checkpoint
    tagged      <tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>, for all others; the format of
                many open models (Hermes, Qwen)

Text comes first, if any is allowed, and never contains the start of a call; after a call only further calls follow. The
arguments are byte automata compiled by the caller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from diffusion_worker.constraints.automata.automaton import ByteAutomaton
from diffusion_worker.constraints.automata.control_tokens import Placeholder
from diffusion_worker.constraints.automata.graph import Graph
from diffusion_worker.constraints.automata.minimise import RangeDfa, minimal_automaton
from diffusion_worker.constraints.automata.ranges import subtract
from diffusion_worker.constraints.automata.regex import SCALARS
from diffusion_worker.constraints.native_tool_calls import native_arguments
from diffusion_worker.constraints.schema.json_strings import characters
from diffusion_worker.constraints.schema.json_syntax import COLON, COMMA, Layout
from diffusion_worker.constraints.spec import WhiteSpace

OPEN_TAG, CLOSE_TAG = "<tool_call>", "</tool_call>"  # of the tagged syntax
NO_ARGUMENTS: Final[Mapping[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
}  # a function without parameters
_THOUGHT_NAME: Final = b"thought\n"
_BRACE: Final = 0x7B
_NOT_ASCII: Final = 0x80
Automaton = ByteAutomaton | RangeDfa


class Syntax(StrEnum):
    """The syntax of calls."""

    NATIVE = "native"
    TAGGED = "tagged"


class Thought(StrEnum):
    """Whether a thought may precede the answer; `open`: the prompt has already opened it."""

    NONE = "none"
    ALLOWED = "allowed"
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """An offered function: its name and the automaton of its arguments."""

    name: str
    arguments: ByteAutomaton


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallRules:
    """The form of an answer. `text`: the language of an answer without calls, None: any text; unused with
    `required`."""

    functions: Sequence[Function]
    syntax: Syntax
    required: bool  # at least one call
    parallel: bool  # several calls in one answer
    thought: Thought = Thought.NONE
    text: ByteAutomaton | None = None
    white_space: WhiteSpace = WhiteSpace.BOUNDED  # of tagged calls


def compile_tool_calls(rules: ToolCallRules, *, max_states: int) -> ByteAutomaton | None:
    """The automaton of all answers that follow the rules; None if there is none. Raises TooLarge."""
    graph = Graph(max_states=max_states)
    end = graph.state([], accepting=True)
    after_call = graph.reserve() if rules.parallel else end
    is_native = rules.syntax is Syntax.NATIVE
    opener = bytes((Placeholder.CALL_OPENS,)) if is_native else OPEN_TAG.encode()
    layout = Layout(graph, rules.white_space)
    called = (
        _native(graph, rules.functions, after_call)
        if is_native
        else _tagged(graph, layout, rules.functions, after_call)
    )
    start = graph.word(opener, called)
    if rules.parallel:
        more = graph.rows[start]
        graph.fill(after_call, more if is_native else layout.edges((), more, 0), accepting=True)
    if not rules.required and rules.text is None:
        start = _any_text(graph, opener, called)
    elif not rules.required and rules.text is not None:
        start = graph.union([start, _embedded(graph, rules.text, end)])
    return minimal_automaton(graph.rows, graph.accepting, _with_thought(graph, rules.thought, start))


def _native(graph: Graph, functions: Sequence[Function], after_call: int) -> int:
    """The state after the token that opens a call."""
    closing = graph.word((Placeholder.CALL_CLOSES,), after_call)
    starts = [
        graph.word(f"call:{each.name}".encode(), _object(graph, native_arguments(each.arguments), closing))
        for each in functions
    ]
    return graph.union(starts)


def _tagged(graph: Graph, layout: Layout, functions: Sequence[Function], after_call: int) -> int:
    """The state after the opening tag."""
    closing = layout.spaced(graph.word(b"}", layout.tag(graph.word(CLOSE_TAG.encode(), after_call))))
    starts = []
    for each in functions:
        arguments = _member(graph, layout, "arguments", _object(graph, each.arguments, closing))
        starts.append(graph.word(f'"{each.name}"'.encode(), layout.sign(COMMA, arguments)))
    return layout.tag(graph.word(b"{", layout.spaced(_member(graph, layout, "name", graph.union(starts)))))


def _member(graph: Graph, layout: Layout, name: str, value: int) -> int:
    """A member name, a colon and the value."""
    return graph.word(f'"{name}"'.encode(), layout.sign(COLON, value))


def _object(graph: Graph, automaton: Automaton, closing: int) -> int:
    """The objects among the values of an automaton, each followed by `closing`."""
    start = graph.rows[_embedded(graph, automaton, closing)]
    return graph.state(edge for edge in start if edge[0] == _BRACE)


def _embedded(graph: Graph, automaton: Automaton, following: int) -> int:
    """The texts of an automaton, each followed by `following`, which must not start with a byte that may continue a
    text."""
    rows = automaton.rows() if isinstance(automaton, ByteAutomaton) else automaton.rows
    names = [graph.reserve() for _ in rows]
    for name, row, accepting in zip(names, rows, automaton.accepting, strict=True):
        edges = [(first, last, names[target]) for first, last, target in row]
        more = graph.rows[following] if accepting else ()
        graph.fill(name, [*edges, *more], accepting=bool(accepting and graph.accepting[following]))
    return names[automaton.start]


def _any_text(graph: Graph, opener: bytes, called: int) -> int:
    """Any text up to the opener of a call or the end: the Knuth-Morris-Pratt automaton of the opener, whose first byte
    occurs only once in it. State n has read n bytes of it."""
    states = [graph.reserve() for _ in opener]
    for read, (state, byte) in enumerate(zip(states, opener, strict=True)):
        onward = {opener[0]: [*states, called][1], byte: [*states, called][read + 1]}
        others = subtract(SCALARS, tuple((label, label) for label in sorted(onward) if label < _NOT_ASCII))
        edges = [(label, label, target) for label, target in onward.items()]
        graph.fill(state, [*characters(graph, others, states[0]), *edges], accepting=True)
    return states[0]


def _with_thought(graph: Graph, thought: Thought, answer: int) -> int:
    """The answer, optionally preceded by a thought."""
    if thought is Thought.NONE:
        return answer
    thinking = graph.reserve()
    closing = (Placeholder.THOUGHT_CLOSES, Placeholder.THOUGHT_CLOSES, answer)
    graph.fill(thinking, [*characters(graph, SCALARS, thinking), closing])
    if thought is Thought.OPEN:
        return thinking
    named = graph.word(_THOUGHT_NAME, thinking)
    return graph.state(
        [*graph.rows[answer], (Placeholder.THOUGHT_OPENS, Placeholder.THOUGHT_OPENS, named)],
        accepting=graph.accepting[answer],
    )
