"""The token automaton: a constraint as the net sees it, and how it is kept on disk.

States are what has been written, edges are sets of tokens. Tokens that no edge tells apart form an *atom*, so a class
(the label of an edge) is a list of atoms: the tens of thousands of tokens that may stand inside a string are one atom,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClasses:
    """The vocabulary cut into atoms, and the classes made of them.

    Atoms of a single token come first; the last atom is the largest. Every id is in exactly one atom.
    """

    order: Ints  # [vocab] ids atom by atom, ascending within one
    atom_start: Ints  # [atoms + 1] into order
    atom_of: Ints  # [vocab] id -> atom
    class_start: Ints  # [classes + 1] into class_atom
    class_atom: Ints  # [pairs] ascending within a class

    @property
    def atoms(self) -> int:
        """How many atoms."""
        return len(self.atom_start) - 1

    @property
    def classes(self) -> int:
        """How many classes; as a label this number means *any token, unscored*."""
        return len(self.class_start) - 1

    def atoms_of(self, label: int) -> Ints:
        """The atoms of a class."""
        return self.class_atom[self.class_start[label] : self.class_start[label + 1]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenAutomaton:
    """Deterministic: no token is in two classes that leave the same state. Every state lies on a way from `start` to
    `done`, the last state, whose one edge leads back to itself over any token, unscored."""

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
        atom = self.classes.atom_of[token]
        for edge in range(self.first_edge[state], self.first_edge[state + 1]):
            atoms = self.classes.atoms_of(int(self.label[edge]))
            place = np.searchsorted(atoms, atom)
            if place < len(atoms) and atoms[place] == atom:
                return int(self.target[edge])
        return -1

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
