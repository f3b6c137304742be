"""The token automaton: a constraint as the net sees it, and how it is kept on disk.

States are what has been written, edges are sets of tokens. Tokens that no edge tells apart form an *atom*, so a class
(the label of an edge) is a set of atoms: the tens of thousands of tokens that may stand inside a string are one atom,
and whatever is computed of it is a sum over its members, never total minus rest, which would cancel. Knows no logits.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
FORMAT: Final = 1  # of the bytes; another number is another layout


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class TokenClasses:
    """The vocabulary cut into atoms, and the classes made of them.

    Every id is in exactly one atom; atoms of a single token come first, the last is the largest. The atoms are leaves
    of a binary tree, numbered as a heap: node n has the children 2n and 2n + 1, the leaves are the last half. A class
    is written as the fewest nodes that cover it, for large classes differ in little: any text but this key, but that.
    """

    order: Ints  # [vocab] ids atom by atom, ascending within one
    atom_start: Ints  # [atoms + 1] into order
    atom_of: Ints  # [vocab] id -> atom
    leaf_of: Ints  # [atoms] -> node
    atom_at: Ints  # [nodes] the atom of a leaf, -1 elsewhere
    class_start: Ints  # [classes + 1] into class_node
    class_node: Ints  # ascending within a class

    @property
    def atoms(self) -> int:
        """How many atoms."""
        return len(self.leaf_of)

    @property
    def nodes(self) -> int:
        """How many numbers the nodes take, a power of two; number 0 is no node."""
        return len(self.atom_at)

    @property
    def classes(self) -> int:
        """How many classes; as a label this number means *any token, unscored*."""
        return len(self.class_start) - 1

    def nodes_of(self, label: int) -> Ints:
        """The nodes that cover a class."""
        return self.class_node[self.class_start[label] : self.class_start[label + 1]]

    def tokens_of(self, atom: int) -> Ints:
        """The ids of an atom."""
        return self.order[self.atom_start[atom] : self.atom_start[atom + 1]]

    def any_of(self, label: int) -> int:
        """Some token of a class."""
        node = int(self.nodes_of(label)[0])
        leaves = self.leaf_of.astype(np.int64)
        for level in range(int(leaves.max()).bit_length()):
            below = np.flatnonzero(leaves >> level == node)
            if below.size:
                return int(self.tokens_of(int(below[0]))[0])
        raise AssertionError("every node has a leaf")

    def holds(self, label: int, token: int) -> bool:
        """Whether a class holds a token: whether one of its nodes is on the way from the token's leaf to the root."""
        leaf = int(self.leaf_of[self.atom_of[token]])
        way = {leaf >> level for level in range(leaf.bit_length())}
        return not way.isdisjoint(self.nodes_of(label).tolist())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class TokenAutomaton:
    """Deterministic: no token is in two classes that leave the same state. Every state lies on a way from `start` to
    `done`, the last state, whose one edge leads back to itself over any token, unscored. States with more edges come
    first (see `Runs`)."""

    classes: TokenClasses
    first_edge: Ints  # [states + 1] edges sorted by source
    source: Ints  # [edges]
    target: Ints  # [edges]
    label: Ints  # [edges] class
    distance: Ints  # [states] fewest tokens to `done`, the end token counted
    start: int
    tail_id: int  # what stands behind the end token
    vocabulary: str  # digest

    @property
    def states(self) -> int:
        """How many states."""
        return len(self.distance)

    @property
    def edges(self) -> int:
        """How many edges."""
        return len(self.target)

    @property
    def done(self) -> int:
        """The state behind the end token."""
        return len(self.distance) - 1

    def after(self, state: int, token: int) -> int:
        """The state after `token`, -1 where it may not stand."""
        if state == self.done:
            return state
        for edge in range(self.first_edge[state], self.first_edge[state + 1]):
            if self.classes.holds(int(self.label[edge]), token):
                return int(self.target[edge])
        return -1

    def shortest(self, state: int) -> tuple[int, ...]:
        """Fewest tokens that close a text which stands at `state`, the end token left out."""
        tokens: list[int] = []
        while self.distance[state] > 1:
            edges = range(self.first_edge[state], self.first_edge[state + 1])
            edge = min(edges, key=lambda each: self.distance[self.target[each]])
            tokens.append(self.classes.any_of(int(self.label[edge])))
            state = int(self.target[edge])
        return tuple(tokens)

    def walk(self, state: int, tokens: Sequence[int]) -> int:
        """The state after all `tokens`, -1 once one may not stand."""
        for token in tokens:
            if state < 0:
                break
            state = self.after(state, token)
        return state


def to_bytes(automaton: TokenAutomaton) -> bytes:
    """For another process or the disk; see `from_bytes`."""
    classes = {field.name: getattr(automaton.classes, field.name) for field in fields(TokenClasses)}
    rest = {field.name: getattr(automaton, field.name) for field in fields(TokenAutomaton) if field.name != "classes"}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, format=FORMAT, **classes, **rest)
    return buffer.getvalue()


def from_bytes(content: bytes) -> TokenAutomaton:
    """The automaton again. Raises ValueError for anything that `to_bytes` of this version has not written whole."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = dict(arrays)
        if int(found.pop("format")) != FORMAT:
            raise ValueError("another version")
        classes = TokenClasses(**{field.name: found.pop(field.name) for field in fields(TokenClasses)})
        plain = {name: found.pop(name).item() for name in ("start", "tail_id", "vocabulary")}
        return TokenAutomaton(classes=classes, **plain, **found)
    except (KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"not a token automaton: {error}") from error
