"""Converts the automaton of JSON arguments into the native call syntax of the released checkpoint.

{"city": "São Paulo", "days": 3} → {city:<|"|>São Paulo<|"|>,days:3}

State by state: white space between values is removed, strings are unescaped between two quote tokens, and keys of plain
ASCII characters may omit the quotes. Whether a state lies inside a string, and whether that string is a key, is
recovered from the automaton alone: what may follow differs, so minimisation never merges such states.
"""

from collections.abc import Iterator
from typing import Final

from diffusion_worker.constraints.automata.automaton import DEAD, ByteAutomaton, Edge
from diffusion_worker.constraints.automata.control_tokens import Placeholder
from diffusion_worker.constraints.automata.graph import coalesce
from diffusion_worker.constraints.automata.minimise import RangeDfa, minimise

_QUOTE, _BACKSLASH, _COLON = b'"\\:'
_WHITE: Final = frozenset(b"\t\n\r ")
# Characters of a key without quotes; any other would end it or start another token.
_BARE: Final = frozenset(range(0x21, 0x7F)) - frozenset(b"{}[](),:\"'\\")
_ESCAPES: Final = {**{byte: f"\\u{byte:04x}".encode() for byte in range(0x20)}, 0x22: b'\\"', 0x5C: b"\\\\"}
_SHORT: Final = {0x08: b"\\b", 0x09: b"\\t", 0x0A: b"\\n", 0x0C: b"\\f", 0x0D: b"\\r"}


def native_arguments(automaton: ByteAutomaton) -> RangeDfa:
    """The same values in native syntax, with placeholders of control tokens."""
    return _Converter(automaton).rows()


class _Converter:
    """State n of the JSON automaton is state n here; the copies of states inside unquoted keys follow."""

    def __init__(self, automaton: ByteAutomaton) -> None:
        self._automaton = automaton
        self._next = automaton.next[:, automaton.classes].tolist()  # [states][256]
        self._in_string = self._string_states()
        self._keys = self._key_states()

    def rows(self) -> RangeDfa:
        """Convert all states, then minimise."""
        count = len(self._next)
        rows = [
            coalesce(self._string_edges(s) if s in self._in_string else self._structure_edges(s)) for s in range(count)
        ]
        rows += [coalesce(self._bare_key_edges(s)) if s in self._keys else () for s in range(count)]
        accepting = [*map(bool, self._automaton.accepting), *[False] * count]
        return minimise(rows, accepting, self._automaton.start)

    def _string_states(self) -> frozenset[int]:
        """States inside strings, between characters or within one."""
        seen = {(self._automaton.start, False)}
        todo = list(seen)
        while todo:
            state, inside = todo.pop()
            steps = [(target, inside != (byte == _QUOTE)) for byte, target in self._raw(state)]
            if inside:
                steps += [(target, True) for _, target in self._escaped(state)]
            fresh = set(steps) - seen
            seen |= fresh
            todo.extend(fresh)
        return frozenset(state for state, inside in seen if inside)

    def _key_states(self) -> frozenset[int]:
        """States inside strings that a colon follows, found backwards from the colon."""
        before: dict[int, list[int]] = {}
        ends: list[int] = []
        for state in self._in_string:
            after_quote = self._next[state][_QUOTE]
            if after_quote != DEAD and self._next[after_quote][_COLON] != DEAD:
                ends.append(state)
            onward = {target for byte, target in self._raw(state) if byte != _QUOTE}
            for target in onward.union(target for _, target in self._escaped(state)):
                before.setdefault(target, []).append(state)
        found: set[int] = set()
        while ends:
            state = ends.pop()
            if state not in found:
                found.add(state)
                ends.extend(before.get(state, ()))
        return frozenset(found)

    def _raw(self, state: int) -> Iterator[tuple[int, int]]:
        """Transitions over single bytes, without escapes."""
        for byte, target in enumerate(self._next[state]):
            if target != DEAD and byte != _BACKSLASH:
                yield byte, target

    def _escaped(self, state: int) -> Iterator[tuple[int, int]]:
        """Characters that JSON must escape, as bytes, with their targets."""
        if self._next[state][_BACKSLASH] == DEAD:
            return
        for byte, long_form in _ESCAPES.items():
            for escape in (_SHORT.get(byte, long_form), long_form):
                if (target := self._automaton.walk(state, escape)) != DEAD:
                    yield byte, target
                    break

    def _structure_edges(self, state: int) -> Iterator[Edge]:
        for byte, target in self._raw(state):
            if byte == _QUOTE:
                yield (Placeholder.QUOTE, Placeholder.QUOTE, target)
                if target in self._keys:
                    yield from self._bare_key_bytes(target)
            elif byte not in _WHITE:
                yield (byte, byte, target)

    def _string_edges(self, state: int) -> Iterator[Edge]:
        for byte, target in self._raw(state):
            label = Placeholder.QUOTE if byte == _QUOTE else byte
            yield (label, label, target)
        yield from ((byte, byte, target) for byte, target in self._escaped(state))

    def _bare_key_edges(self, state: int) -> Iterator[Edge]:
        """Edges inside an unquoted key, which ends at the colon."""
        yield from self._bare_key_bytes(state)
        after_quote = self._next[state][_QUOTE]
        if after_quote != DEAD:
            yield (_COLON, _COLON, self._next[after_quote][_COLON])

    def _bare_key_bytes(self, state: int) -> Iterator[Edge]:
        for byte, target in self._raw(state):
            if byte in _BARE and target in self._keys:
                yield (byte, byte, len(self._next) + target)
