"""Which names an object may hold beside the declared ones, and what their values must be.

The names fall into cells: one for each combination of `patternProperties` that can match together, one for the rest.
Cells do not overlap, so what a name means never depends on how far it has been read.
"""

from dataclasses import dataclass, replace

from diffusion_worker.constraints.automata.code_point_dfa import ANY_TEXT, both, either, matching, minus, words
from diffusion_worker.constraints.automata.graph import TooLarge
from diffusion_worker.constraints.automata.minimise import EMPTY, Rows
from diffusion_worker.constraints.automata.regex import NotRegular
from diffusion_worker.constraints.schema.combine import Combiner
from diffusion_worker.constraints.schema.document import Conj, together
from diffusion_worker.constraints.schema.shapes import MemberLayer, Members
from diffusion_worker.constraints.schema.size_limits import Caps
from diffusion_worker.constraints.schema.strings import LEAST_WIDE, language, wide_states


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Names of one language, and what is said of their values. `silent`: nothing is, by any layer."""

    names: Rows
    conj: Conj = ()
    silent: bool = True


def admitted(combiner: Combiner, members: Members, caps: Caps, unchecked: set[str]) -> Rows:
    """The names that `propertyNames` admits."""
    if not members.names:
        return ANY_TEXT
    found = EMPTY
    for shape in combiner.shapes(members.names):
        unchecked.update({"propertyNames"} if shape.unchecked else ())
        if "string" not in shape.types:
            continue
        if shape.literals is not None:
            found = either(found, words(frozenset(value for value in shape.literals if isinstance(value, str))))
            continue
        names = language(shape.text, caps.length)
        unchecked.update({"propertyNames"} if names.unchecked else ())
        found = either(found, names.rows)
    return found


def cells(members: Members, names: Rows, unchecked: set[str]) -> list[Cell]:
    """Undeclared names of the language `names`, split by what the layers say of them."""
    found = [Cell(names=minus(names, words(frozenset(members.declared))))]
    for layer in members.layers:
        found = [part for cell in found for part in _split(cell, layer, unchecked)]
    if members.closed:
        found = [cell for cell in found if cell.conj]
    return found


def _split(cell: Cell, layer: MemberLayer, unchecked: set[str]) -> list[Cell]:
    """One layer's say. Names that no pattern of it matches are those of its `additionalProperties`."""
    matched: list[Cell] = []
    rest = cell
    for pattern, conj in layer.patterns:
        try:
            inside, outside = _sides(pattern, unchecked)
            matched = [part for found in matched for part in _parted(found, inside, outside, conj)]
            matched.extend(_narrowed(rest, both(rest.names, inside), conj))
            rest = replace(rest, names=minus(rest.names, outside))
        except (NotRegular, TooLarge):
            unchecked.add("patternProperties")
    if not rest.names.rows:
        return matched
    if layer.rest is not None:
        rest = replace(rest, conj=together(rest.conj, layer.rest), silent=False)
    return [*matched, rest]


def _sides(pattern: str, unchecked: set[str]) -> tuple[Rows, Rows]:
    """The names that surely match, and those that may."""
    inside, outside = matching(pattern), matching(pattern, wide=True)
    if max(wide_states(inside), wide_states(outside)) > LEAST_WIDE:
        unchecked.add("patternProperties")
        inside, outside = (matching(pattern, wide=wide, repeats=LEAST_WIDE // 4) for wide in (False, True))
    return inside, outside


def _parted(cell: Cell, inside: Rows, outside: Rows, conj: Conj) -> list[Cell]:
    left = minus(cell.names, outside)
    apart = [replace(cell, names=left)] if left.rows else []
    return [*apart, *_narrowed(cell, both(cell.names, inside), conj)]


def _narrowed(cell: Cell, names: Rows, conj: Conj) -> list[Cell]:
    return [Cell(names=names, conj=together(cell.conj, conj), silent=False)] if names.rows else []
