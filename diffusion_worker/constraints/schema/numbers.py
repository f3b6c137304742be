"""JSON numbers within bounds as states over bytes: comparison with a bound digit by digit, and remainders for
`multipleOf`.

The normal form has no leading zeros (RFC 8259), exponents of one or two digits, and no exponent where bounds or
`multipleOf` restrict the number. An exclusive bound also limits the number of digits, so that no accepted text rounds
to the bound as a double.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Final

from diffusion_worker.constraints.automata.automaton import Edge
from diffusion_worker.constraints.automata.graph import SELF, Graph

EXACT_DIGITS: Final = 15  # decimal digits that a double can distinguish
MAX_DIGITS: Final = 40  # of a bound; longer ones are left to validation
MAX_MODULUS: Final = 1000
_ZERO: Final = 48
_ONE: Final = 49
_NINE: Final = 57
_MINUS: Final = 45
_POINT: Final = 46
_PLUS: Final = 43
_EXPONENT: Final = ((69, 69), (101, 101))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """low (<=|<) value (<=|<) high; None: no bound."""

    low: Decimal | None = None
    high: Decimal | None = None
    above: bool = False  # strictly above `low`
    below: bool = False  # strictly below `high`

    def and_(self, other: "Bounds") -> "Bounds":
        """The intersection."""
        lows = [(bounds.low, bounds.above) for bounds in (self, other) if bounds.low is not None]
        highs = [(bounds.high, not bounds.below) for bounds in (self, other) if bounds.high is not None]
        low, above = max(lows, default=(None, False))
        high, included = min(highs, default=(None, True))
        return Bounds(low=low, high=high, above=above, below=not included)

    @property
    def empty(self) -> bool:
        """Whether no number satisfies the bounds."""
        if self.low is None or self.high is None:
            return False
        return self.low > self.high or (self.low == self.high and (self.above or self.below))

    def rounded(self) -> "Bounds":
        """The same integers with integral bounds."""
        low, high = self.low, self.high
        if low is not None:
            whole = low.to_integral_value(ROUND_CEILING)
            low = whole + 1 if self.above and whole == low else whole
        if high is not None:
            whole = high.to_integral_value(ROUND_FLOOR)
            high = whole - 1 if self.below and whole == high else whole
        return Bounds(low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Numbers: bounds and divisors."""

    integer: bool = False
    bounds: Bounds = field(default_factory=Bounds)
    multiples: tuple[Decimal, ...] = ()

    def and_(self, other: "Numbers") -> "Numbers":
        """The intersection."""
        return Numbers(
            integer=self.integer or other.integer,
            bounds=self.bounds.and_(other.bounds),
            multiples=tuple(dict.fromkeys((*self.multiples, *other.multiples))),
        )

    @property
    def empty(self) -> bool:
        """Whether no number satisfies the bounds."""
        return self.bounds.empty or (self.integer and self.bounds.rounded().empty)


def number(graph: Graph, numbers: Numbers, following: int, unchecked: set[str]) -> int | None:
    """The state before a number that satisfies all keywords; those that only validation can check are added to
    `unchecked`. None: no such number."""
    whole = [value for value in numbers.multiples if value == value.to_integral_value()]
    parts = [value for value in numbers.multiples if value not in whole]
    integer = numbers.integer or bool(whole)
    if parts and not integer:
        unchecked.add("multipleOf")
    bounds = _comparable(numbers.bounds, unchecked)
    fraction = 0 if integer else max((-int(part.as_tuple().exponent) for part in parts), default=None)
    from_zero = bounds == Bounds(low=Decimal(0))
    if (fraction is None or not numbers.multiples) and (bounds == Bounds() or from_zero):
        return free_number(graph, following, integer=integer, negative=not from_zero)
    state = bounded_number(graph, bounds, following, fraction=fraction)
    for modulus in whole if state is not None else ():
        state = _multiple(graph, state, int(modulus), following, unchecked)
    return state


def _multiple(graph: Graph, state: int | None, modulus: int, following: int, unchecked: set[str]) -> int | None:
    if state is None or modulus == 1:
        return state
    if modulus > MAX_MODULUS:
        unchecked.add("multipleOf")
        return state
    return graph.intersect(state, multiples(graph, modulus, following))


def _comparable(bounds: Bounds, unchecked: set[str]) -> Bounds:
    """Bounds of at most MAX_DIGITS digits; longer ones are left to validation."""
    low, high = (
        None if bound is None or len(format(bound, "f")) > MAX_DIGITS else bound for bound in (bounds.low, bounds.high)
    )
    if low != bounds.low:
        unchecked.add("minimum")
    if high != bounds.high:
        unchecked.add("maximum")
    return Bounds(low=low, high=high, above=bounds.above and low is not None, below=bounds.below and high is not None)


def free_number(graph: Graph, following: int, *, integer: bool, negative: bool = True, exponent: bool = True) -> int:
    """Any number, or any integer; `following` must not begin like the rest of a number."""
    closing, accepting = list(graph.rows[following]), graph.accepting[following]
    endings = [*closing, *_exponent(graph, following)] if exponent and not integer else closing
    if not integer:
        fraction = graph.state([(_ZERO, _NINE, SELF), *endings], accepting=accepting)
        endings = [*endings, (_POINT, _POINT, graph.state([(_ZERO, _NINE, fraction)]))]
    zero = graph.state(endings, accepting=accepting)
    more = graph.state([(_ZERO, _NINE, SELF), *endings], accepting=accepting)
    magnitude: list[Edge] = [(_ZERO, _ZERO, zero), (_ONE, _NINE, more)]
    return graph.state([*magnitude, *([(_MINUS, _MINUS, graph.state(magnitude))] if negative else [])])


def _exponent(graph: Graph, following: int) -> list[Edge]:
    last = graph.state(graph.rows[following], accepting=graph.accepting[following])
    digits = graph.state([(_ZERO, _NINE, last), *graph.rows[following]], accepting=graph.accepting[following])
    signed = graph.state([(_ZERO, _NINE, digits)])
    start = graph.state([(_ZERO, _NINE, digits), (_PLUS, _PLUS, signed), (_MINUS, _MINUS, signed)])
    return [(first, last_, start) for first, last_ in _EXPONENT]


def bounded_number(graph: Graph, bounds: Bounds, following: int, *, fraction: int | None) -> int | None:
    """The numbers within the bounds, with at most `fraction` decimals (0: integers, None: unlimited). None: no such
    number."""
    bounds = bounds.rounded() if fraction == 0 else bounds
    if bounds.empty:
        return None
    if fraction is None and (bounds.above or bounds.below):
        fraction = max(1, EXACT_DIGITS - _whole_digits(bounds))
    starts: list[Edge] = []
    if bounds.high is None or bounds.high > 0 or (bounds.high == 0 and not bounds.below):
        reader = _Magnitudes(graph, _from_zero(bounds), following, fraction)
        starts.extend(graph.rows[reader.start()])
    mirrored = Bounds(
        low=None if bounds.high is None else -bounds.high,
        high=None if bounds.low is None else -bounds.low,
        above=bounds.below,
        below=bounds.above,
    )
    if mirrored.high is None or mirrored.high > 0:
        reader = _Magnitudes(graph, _from_zero(mirrored), following, fraction)
        if graph.rows[start := reader.start()]:
            starts.append((_MINUS, _MINUS, start))
    return graph.state(starts) if starts else None


def _from_zero(bounds: Bounds) -> Bounds:
    return bounds if bounds.low is not None and bounds.low >= 0 else replace(bounds, low=Decimal(0), above=False)


def _whole_digits(bounds: Bounds) -> int:
    return max(len(_digits(abs(bound))[0]) for bound in (bounds.low, bounds.high) if bound is not None)


def _digits(value: Decimal) -> tuple[str, str]:
    """The digits before and after the decimal point, without redundant zeros."""
    whole, _, fraction = format(value, "f").partition(".")
    return whole, fraction.rstrip("0")


class _Magnitudes:
    """Unsigned numbers between two non-negative bounds."""

    def __init__(self, graph: Graph, bounds: Bounds, following: int, fraction: int | None) -> None:
        self._graph, self._following, self._fraction_digits = graph, following, fraction
        self._above, self._below = bounds.above, bounds.below
        self._low = _digits(bounds.low or Decimal(0))
        self._high = None if bounds.high is None else _digits(bounds.high)
        self._decimals: dict[tuple[int, bool, bool], int | None] = {}

    def start(self) -> int:
        """The state before the first digit: the union over all lengths of the integer part."""
        shortest = len(self._low[0])
        longest = shortest + 1 if self._high is None else len(self._high[0])
        starts = [
            self._whole(length, 0, length == shortest, self._is_high(length))
            for length in range(1, longest + 1)
            if length >= shortest
        ]
        found = [state for state in starts if state is not None]
        return self._graph.union(found) if found else self._graph.state([])

    def _is_high(self, length: int) -> bool:
        return self._high is not None and length == len(self._high[0])

    def _whole(self, length: int, at: int, low: bool, high: bool) -> int | None:
        """The state before digit `at` of an integer part of that length; `low`, `high`: equal to that bound so far."""
        if at == length:
            return self._point(low, high, more=self._high is None and length > len(self._low[0]))
        first = 1 if at == 0 and length > 1 else 0
        top = int(self._high[0][at]) if high and self._high is not None else 9
        bottom = max(first, int(self._low[0][at]) if low else 0)
        bound = int(self._low[0][at]) if low else -1
        return self._step(bottom, top, (bound, top if high else -1), lambda a, b: self._whole(length, at + 1, a, b))

    def _step(
        self, bottom: int, top: int, tight: tuple[int, int], ahead: Callable[[bool, bool], int | None]
    ) -> int | None:
        """One digit from bottom to top; after a `tight` one the comparison continues."""
        edges: list[Edge] = []
        states: dict[tuple[bool, bool], int | None] = {}
        for digit in range(bottom, top + 1):
            key = (digit == tight[0], digit == tight[1])
            if key not in states:
                states[key] = ahead(*key)
            if (state := states[key]) is not None:
                edges.append((_ZERO + digit, _ZERO + digit, state))
        return self._graph.state(edges) if edges else None

    def _point(self, low: bool, high: bool, *, more: bool) -> int | None:
        """The state after the integer part: the end, a decimal point, or (`more`) further digits."""
        edges: list[Edge] = [(_ZERO, _NINE, SELF)] if more else []
        ends = self._may_end(0, low, high)
        if ends:
            edges.extend(self._graph.rows[self._following])
        if self._fraction_digits != 0 and (state := self._fraction(0, low, high)) is not None:
            edges.append((_POINT, _POINT, state))
        accepting = ends and self._graph.accepting[self._following]
        return self._graph.state(edges, accepting=accepting) if edges or accepting else None

    def _fraction(self, at: int, low: bool, high: bool) -> int | None:
        """The state before decimal `at`. Beyond the digits of the bounds its position no longer matters."""
        behind = max(1, len(self._low[1]), len(self._high[1]) if self._high else 0)
        if self._fraction_digits is None:
            at = min(at, behind)
        key = (at, low, high)
        if key not in self._decimals:
            if self._fraction_digits is None and at == behind:
                self._decimals[key] = self._graph.reserve()
                self._fill_loop(key)
            else:
                self._decimals[key] = self._compared(at, low, high)
        return self._decimals[key]

    def _compared(self, at: int, low: bool, high: bool) -> int | None:
        row = self._fraction_row(at, low, high)
        return self._graph.state(row[0], accepting=row[1]) if row[0] or row[1] else None

    def _fill_loop(self, key: tuple[int, bool, bool]) -> None:
        state = self._decimals[key]
        assert state is not None
        edges, accepting = self._fraction_row(*key)
        self._graph.fill(state, edges, accepting=accepting)

    def _fraction_row(self, at: int, low: bool, high: bool) -> tuple[list[Edge], bool]:
        edges: list[Edge] = []
        ends = at > 0 and self._may_end(at, low, high)
        accepting = ends and self._graph.accepting[self._following]
        if ends:
            edges.extend(self._graph.rows[self._following])
        if self._fraction_digits is not None and at == self._fraction_digits:
            return edges, accepting
        bottom = _digit(self._low[1], at) if low else 0
        top = _digit(self._high[1], at) if high and self._high else 9
        for digit in range(bottom, top + 1):
            ahead = self._fraction(at + 1, low and digit == bottom, high and digit == top)
            if ahead is not None:
                edges.append((_ZERO + digit, _ZERO + digit, ahead))
        return edges, accepting

    def _may_end(self, at: int, low: bool, high: bool) -> bool:
        """Whether the number may end after `at` decimals."""
        if low and (self._low[1][at:] or self._above):
            return False
        return not (high and self._below and self._high is not None and not self._high[1][at:])


def _digit(digits: str, at: int) -> int:
    return int(digits[at]) if at < len(digits) else 0


def multiples(graph: Graph, modulus: int, following: int) -> int:
    """The multiples of the modulus, of any sign."""
    residues = [graph.reserve() for _ in range(modulus)]
    for residue, state in enumerate(residues):
        edges = [(_ZERO + d, _ZERO + d, residues[(10 * residue + d) % modulus]) for d in range(10)]
        if residue == 0:
            edges.extend(graph.rows[following])
        graph.fill(state, edges, accepting=residue == 0 and graph.accepting[following])
    zero = graph.state(graph.rows[following], accepting=graph.accepting[following])
    magnitude = [(_ZERO, _ZERO, zero), *((_ZERO + d, _ZERO + d, residues[d % modulus]) for d in range(1, 10))]
    return graph.state([*magnitude, (_MINUS, _MINUS, graph.state(magnitude))])
