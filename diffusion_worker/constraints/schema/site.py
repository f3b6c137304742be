"""What arrays and objects need of the builder, and the small states that all JSON is made of.

White space, `[ \\t\\n\\r]*`, is admitted wherever RFC 8259 allows it, as a loop on the state it precedes. It is not
bounded: a bound would cost a state per byte and place, and the token budget of the answer bounds it anyway.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from diffusion_worker.constraints.automata.automaton import Edge
from diffusion_worker.constraints.automata.graph import SELF, Graph
from diffusion_worker.constraints.schema.combine import Combiner
from diffusion_worker.constraints.schema.document import Conj
from diffusion_worker.constraints.schema.size_limits import Caps

WHITE: Final[tuple[Edge, ...]] = ((0x09, 0x0A, SELF), (0x0D, 0x0D, SELF), (0x20, 0x20, SELF))
COMMA: Final = 0x2C
COLON: Final = 0x3A


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a value stands: the state that follows it, and how many containers are around it."""

    following: int
    depth: int = 0
    free: int = 0  # those of them about whose content the schema says nothing

    def inside(self, following: int, *, free: int = 0) -> "Place":
        """One container further in."""
        return Place(following=following, depth=self.depth + 1, free=self.free + free)


class Site(Protocol):
    """The builder, as containers see it."""

    graph: Graph
    caps: Caps
    combiner: Combiner
    unchecked: set[str]

    def value(self, conj: Conj, place: Place) -> int | None:
        """The state before a value that satisfies all nodes; None: there is none."""
        ...


def padded(graph: Graph, edges: Iterable[Edge]) -> int:
    """White space, then `edges`."""
    return graph.state([*WHITE, *edges])


def before(graph: Graph, state: int) -> int:
    """White space, then what `state` reads."""
    return padded(graph, graph.rows[state])


def sign(graph: Graph, byte: int, following: int) -> int:
    """White space, one byte, white space, then what `following` reads."""
    return padded(graph, [(byte, byte, before(graph, following))])
