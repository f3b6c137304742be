"""The compiler's front: a constraint as a request names it becomes one automaton, within a budget of states.

`compile_constraint` is deterministic: the same constraint gives the same automaton everywhere, so results can be cached
by content (see `store`) and made in another process (see `service`). Knows nothing of tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from diffusion_worker.constraints.automaton import ByteAutomaton, freeze
from diffusion_worker.constraints.caps import LADDER, Caps
from diffusion_worker.constraints.checks import Checker
from diffusion_worker.constraints.combine import Combiner
from diffusion_worker.constraints.document import Document, Schema
from diffusion_worker.constraints.graph import TooLarge
from diffusion_worker.constraints.keywords import keyword_at
from diffusion_worker.constraints.minimise import Rows, minimise
from diffusion_worker.constraints.schema import Builder
from diffusion_worker.errors import UnsupportedSchema

COMPILER_VERSION: Final = 1  # part of every cache key; raise it whenever an automaton may come out differently


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a compilation took and gave."""

    states: int
    edges: int  # pairs of a state and a class that lead on
    rung: int  # of the ladder of caps, 0 is the most generous
    cut: bool  # whether a cap on depth made the language smaller


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """An automaton, and which keywords it leaves to the final check."""

    automaton: ByteAutomaton
    needs_check: tuple[str, ...]
    stats: Stats


def compile_schema(schema: Schema, *, ladder: Sequence[Caps] = LADDER) -> Compiled:
    """The documents that satisfy a schema, in normal form. Raises BadAsk for what is no schema, UnsupportedSchema for
    one that cannot be kept, or admits nothing."""
    checker, document = Checker(schema), Document(schema)
    combiner = Combiner(document)
    pointer = ""
    for rung, caps in enumerate(ladder):
        builder = Builder(document, caps, combiner, checker)
        try:
            start = builder.document()
        except TooLarge:
            pointer = builder.pointer
            continue
        except RecursionError:
            raise UnsupportedSchema(
                "nested too deeply", keyword=keyword_at(builder.pointer), pointer=builder.pointer
            ) from None
        small = (
            Rows(rows=(), accepting=(), start=-1)
            if start is None
            else minimise(builder.graph.rows, builder.graph.accepting, start)
        )
        if small.rows:
            return _compiled(small, builder, rung)
        if not builder.cuts:
            raise UnsupportedSchema("the schema admits no value", keyword=keyword_at(""), pointer="")
    raise UnsupportedSchema(
        "the schema needs more states than the budget allows", keyword=keyword_at(pointer), pointer=pointer
    )


def _compiled(small: Rows, builder: Builder, rung: int) -> Compiled:
    automaton = freeze(small.rows, small.accepting, small.start)
    stats = Stats(states=automaton.states, edges=int((automaton.next >= 0).sum()), rung=rung, cut=bool(builder.cuts))
    return Compiled(automaton=automaton, needs_check=tuple(sorted(builder.unchecked)), stats=stats)
