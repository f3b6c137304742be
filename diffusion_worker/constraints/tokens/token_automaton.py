"""The token automaton: a deterministic finite automaton whose edges are labelled with sets of tokens, and its
serialisation.

A state represents the text written so far. Tokens that no edge distinguishes form a token equivalence class, and a
token set (the label of an edge) is a union of such classes. The tens of thousands of tokens that may stand inside a
string are one class, so scoring a set costs a few additions. A set's score is always a sum over its members, never the
total minus the rest, which would cancel in floating point.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
FORMAT: Final = 2  # of the serialised bytes; raise it whenever the layout or a field name changes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class TokenSets:
    """The vocabulary partitioned into token equivalence classes, and the token sets over them.

    Every id is in exactly one equivalence class; equivalence classes of a single token come first, the last is the
    largest. The classes are the leaves of a binary tree, numbered as a heap: node n has the children 2n and 2n + 1, and
    the leaves are the last half. A token set is stored as the smallest set of nodes that covers it, because large sets
    differ in few classes (any text except one key or another).
    """

    order: Ints  # [vocab] ids by equivalence class, ascending within a class
    class_start: Ints  # [classes + 1] into order
    class_of: Ints  # [vocab] id -> equivalence class
    leaf_of: Ints  # [classes] -> node
    class_at: Ints  # [nodes] the equivalence class of a leaf, -1 elsewhere
    set_start: Ints  # [sets + 1] into set_node
    set_node: Ints  # ascending within a token set

    @property
    def classes(self) -> int:
        """The number of equivalence classes."""
        return len(self.leaf_of)

    @property
    def nodes(self) -> int:
        """The size of the node numbering, a power of two; number 0 is unused."""
        return len(self.class_at)

    @property
    def sets(self) -> int:
        """The number of token sets; used as a label, this number means *any token, unscored*."""
        return len(self.set_start) - 1

    def nodes_of(self, label: int) -> Ints:
        """The nodes that cover a token set."""
        return self.set_node[self.set_start[label] : self.set_start[label + 1]]

    def tokens_of(self, index: int) -> Ints:
        """The ids of an equivalence class."""
        return self.order[self.class_start[index] : self.class_start[index + 1]]

    def any_of(self, label: int) -> int:
        """Some token of a token set."""
        node = int(self.nodes_of(label)[0])
        leaves = self.leaf_of.astype(np.int64)
        for level in range(int(leaves.max()).bit_length()):
            below = np.flatnonzero(leaves >> level == node)
            if below.size:
                return int(self.tokens_of(int(below[0]))[0])
        raise AssertionError("every node has a leaf")

    def contains(self, label: int, token: int) -> bool:
        """Whether a token set contains a token: one of its nodes lies on the path from the token's leaf to the root."""
        leaf = int(self.leaf_of[self.class_of[token]])
        ancestors = {leaf >> level for level in range(leaf.bit_length())}
        return not ancestors.isdisjoint(self.nodes_of(label).tolist())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class TokenAutomaton:
    """Deterministic: the sets on the edges of one state are disjoint. Every state lies on a path from `start` to
    `done`, the last state, whose only edge is a self-loop over any token, unscored. States are ordered by their number
    of edges, descending (see `Segments`)."""

    token_sets: TokenSets
    first_edge: Ints  # [states + 1] edges sorted by source
    source: Ints  # [edges]
    target: Ints  # [edges]
    label: Ints  # [edges] token set
    distance: Ints  # [states] fewest tokens to `done`, the end token counted
    start: int
    padding_id: int  # fills the canvas after the end token
    vocabulary: str  # digest

    @property
    def states(self) -> int:
        """The number of states."""
        return len(self.distance)

    @property
    def edges(self) -> int:
        """The number of edges."""
        return len(self.target)

    @property
    def done(self) -> int:
        """The state after the end token."""
        return len(self.distance) - 1

    def after(self, state: int, token: int) -> int:
        """The state after `token`; -1 where the token is not allowed."""
        if state == self.done:
            return state
        for edge in range(self.first_edge[state], self.first_edge[state + 1]):
            if self.token_sets.contains(int(self.label[edge]), token):
                return int(self.target[edge])
        return -1

    def shortest(self, state: int) -> tuple[int, ...]:
        """The shortest token sequence that completes a text at `state`, without the end token."""
        tokens: list[int] = []
        while self.distance[state] > 1:
            edges = range(self.first_edge[state], self.first_edge[state + 1])
            edge = min(edges, key=lambda each: self.distance[self.target[each]])
            tokens.append(self.token_sets.any_of(int(self.label[edge])))
            state = int(self.target[edge])
        return tuple(tokens)

    def walk(self, state: int, tokens: Sequence[int]) -> int:
        """The state after all `tokens`; -1 once one is not allowed."""
        for token in tokens:
            if state < 0:
                break
            state = self.after(state, token)
        return state


def to_bytes(automaton: TokenAutomaton) -> bytes:
    """Serialise for another process or the disk; see `from_bytes`."""
    token_sets = {field.name: getattr(automaton.token_sets, field.name) for field in fields(TokenSets)}
    rest = {
        field.name: getattr(automaton, field.name) for field in fields(TokenAutomaton) if field.name != "token_sets"
    }
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, format=FORMAT, **token_sets, **rest)
    return buffer.getvalue()


def from_bytes(content: bytes) -> TokenAutomaton:
    """Deserialise. Raises ValueError for anything but the complete output of `to_bytes` of this version."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = dict(arrays)
        if int(found.pop("format")) != FORMAT:
            raise ValueError("another version")
        token_sets = TokenSets(**{field.name: found.pop(field.name) for field in fields(TokenSets)})
        plain = {name: found.pop(name).item() for name in ("start", "padding_id", "vocabulary")}
        return TokenAutomaton(token_sets=token_sets, **plain, **found)
    except (KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"not a token automaton: {error}") from error
