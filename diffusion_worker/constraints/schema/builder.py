"""From a JSON Schema to states: values by type, built backwards from what follows them.

The normal form: members in declared order (see `objects`), strings and numbers as `spelling` and `numbers` write them,
white space anywhere, and the caps of `caps`. Every text that the states accept satisfies the schema, but for the
keywords left in `unchecked`; every value within the caps is accepted when it is written in normal form.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, TypeVar

from diffusion_worker.constraints.automata.graph import Graph, TooLarge
from diffusion_worker.constraints.schema.arrays import array
from diffusion_worker.constraints.schema.combine import Combiner
from diffusion_worker.constraints.schema.document import Conj, canonical
from diffusion_worker.constraints.schema.json_strings import string
from diffusion_worker.constraints.schema.literals import literals
from diffusion_worker.constraints.schema.numbers import (
    MAX_DIGITS,
    MAX_MODULUS,
    Bounds,
    bounded_number,
    free_number,
    multiples,
)
from diffusion_worker.constraints.schema.objects import object_
from diffusion_worker.constraints.schema.shapes import (
    TYPES,
    ItemLayer,
    Items,
    MemberLayer,
    Members,
    Numbers,
    Shape,
    Text,
)
from diffusion_worker.constraints.schema.site import Place, before
from diffusion_worker.constraints.schema.size_limits import Caps
from diffusion_worker.constraints.schema.strings import LEAST_WIDE, language

T = TypeVar("T", Numbers, Text, Items, Members)


class Builder:
    """One attempt at one rung of the caps. `cuts` counts the places where a cap on depth cut something off."""

    def __init__(self, caps: Caps, combiner: Combiner) -> None:
        self.graph = Graph(max_states=caps.states)
        self.caps = caps
        self.combiner = combiner
        self.unchecked: set[str] = set()
        self.cuts = 0
        self.pointer = ""  # where the work is
        self._wide = 0
        self._active: Counter[int] = Counter()
        self._known: dict[tuple[Conj, Place], int | None] = {}

    def document(self) -> int | None:
        """The state before a whole document; it may begin and end in white space."""
        end = self.graph.reserve()
        self.graph.fill(end, [(0x09, 0x0A, end), (0x0D, 0x0D, end), (0x20, 0x20, end)], accepting=True)
        start = self.value((self.combiner.document.root,), Place(following=end))
        return None if start is None else before(self.graph, start)

    def value(self, conj: Conj, place: Place) -> int | None:
        """The state before a value that satisfies all nodes; None: there is none within the caps."""
        if place.free > self.caps.free_depth:
            return None
        if place.depth > self.caps.depth:
            self.cuts += 1
            return None
        key = (conj, place)
        if key in self._known:
            return self._known[key]
        cuts = self.cuts
        state = self._built(conj, place)
        if cuts == self.cuts:  # otherwise the state depends on what was around it
            self._known[key] = state
        return state

    def _built(self, conj: Conj, place: Place) -> int | None:
        self.pointer = conj[0].pointer if conj else self.pointer
        shapes = self.combiner.shapes(conj)
        starts: list[int] = []
        if given := [value for shape in shapes for value in shape.literals or ()]:
            kept = [value for value in _distinct(given) if self.combiner.satisfies(value, conj)]
            starts.extend(literals(self.graph, kept, place.following))
        starts.extend(self._typed([shape for shape in shapes if shape.literals is None], place))
        return self.graph.state(self.graph.merged([], *starts)) if starts else None

    def _typed(self, shapes: Sequence[Shape], place: Place) -> Iterator[int]:
        """The states before a value of any shape, type by type; shapes that agree on a type are built once for it."""
        by_type = {name: [shape for shape in shapes if name in shape.types] for name in TYPES}
        for shape in shapes:
            self.unchecked |= shape.unchecked
        graph, following = self.graph, place.following
        if by_type["null"]:
            yield graph.word(b"null", following)
        if by_type["boolean"]:
            yield from (graph.word(word, following) for word in (b"true", b"false"))
        found = [
            *(self._number(numbers, following) for numbers in _weakest(shape.numbers for shape in by_type["number"])),
            *(self._string(text, following) for text in _weakest(shape.text for shape in by_type["string"])),
            *(self._array(items, place) for items in _weakest(shape.items for shape in by_type["array"])),
            *(self._object(members, place) for members in _weakest(shape.members for shape in by_type["object"])),
        ]
        yield from (state for state in found if state is not None)

    def _array(self, items: Items, place: Place) -> int | None:
        with self._inside(items.layers) as allowed:
            return array(self, items, place) if allowed else None

    def _object(self, members: Members, place: Place) -> int | None:
        with self._inside(members.layers) as allowed:
            return object_(self, members, place) if allowed else None

    @contextmanager
    def _inside(self, layers: Sequence[ItemLayer | MemberLayer]) -> Iterator[bool]:
        """Whether a container may stand inside itself once more. A layer is made once for its position, so it tells
        recursion apart however it was reached."""
        names = [id(layer) for layer in layers]
        allowed = all(self._active[name] <= self.caps.recursion for name in names)
        self.cuts += not allowed
        self._active.update(names)
        yield allowed
        self._active.subtract(names)

    def _string(self, text: Text, following: int) -> int | None:
        found = language(text, self.caps.length)
        self.unchecked |= found.unchecked
        self._wide += found.wide if found.wide > LEAST_WIDE else 0
        if self._wide > self.caps.wide:
            raise TooLarge("strings of too many states")
        return string(self.graph, found.rows, following, free=text == Text()) if found.rows.rows else None

    def _number(self, numbers: Numbers, following: int) -> int | None:
        whole = [value for value in numbers.multiples if value == value.to_integral_value()]
        parts = [value for value in numbers.multiples if value not in whole]
        integer = numbers.integer or bool(whole)
        if parts and not integer:
            self.unchecked.add("multipleOf")
        bounds = self._bounds(numbers.bounds)
        fraction = 0 if integer else max((-int(part.as_tuple().exponent) for part in parts), default=None)
        from_zero = bounds == Bounds(low=Decimal(0))
        if (fraction is None or not numbers.multiples) and (bounds == Bounds() or from_zero):
            return free_number(self.graph, following, integer=integer, negative=not from_zero)
        state = bounded_number(self.graph, bounds, following, fraction=fraction)
        for modulus in whole if state is not None else ():
            state = self._multiple(state, int(modulus), following)
        return state

    def _multiple(self, state: int | None, modulus: int, following: int) -> int | None:
        if state is None or modulus == 1:
            return state
        if modulus > MAX_MODULUS:
            self.unchecked.add("multipleOf")
            return state
        return self.graph.meet(state, multiples(self.graph, modulus, following))

    def _bounds(self, bounds: Bounds) -> Bounds:
        """Bounds of a length that is worth comparing with; others are left to the final check."""
        low, high = (
            None if bound is None or len(format(bound, "f")) > MAX_DIGITS else bound
            for bound in (bounds.low, bounds.high)
        )
        if low != bounds.low:
            self.unchecked.add("minimum")
        if high != bounds.high:
            self.unchecked.add("maximum")
        return Bounds(
            low=low, high=high, above=bounds.above and low is not None, below=bounds.below and high is not None
        )


def _weakest(shapes: Iterable[T]) -> list[T]:
    """Each of the shapes once; only the one that restricts nothing, if there is one."""
    kept: list[T] = []
    for shape in shapes:
        if shape == type(shape)():
            return [shape]
        if shape not in kept:
            kept.append(shape)
    return kept


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list({canonical(value): value for value in reversed(list(values))}.values())[::-1]
