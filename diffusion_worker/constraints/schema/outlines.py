"""Outlines: the containers of one place of a schema, with a single state for each container inside them. They tell what
a place takes before its schema is built."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from diffusion_worker.constraints.automata.graph import TooLarge
from diffusion_worker.constraints.automata.minimise import minimise
from diffusion_worker.constraints.schema.allotments import UNLIMITED, Continuation, Place, Profile, Split
from diffusion_worker.constraints.schema.builder import Builder, ByType
from diffusion_worker.constraints.schema.combine import Combiner
from diffusion_worker.constraints.schema.size_limits import SizeLimits
from diffusion_worker.constraints.spec import WhiteSpace
from diffusion_worker.errors import UnsupportedSchema

_FIRST: Final = 256  # a label before a container inside; the following ones are those of containers


class Outlines:
    """The profiles of the places of a schema within the limits of a tier."""

    def __init__(self, limits: SizeLimits, combiner: Combiner, white_space: WhiteSpace) -> None:
        self._limits, self._combiner, self._white_space = limits, combiner, white_space
        self._known: dict[Place, Profile] = {}

    def profile(self, place: Place) -> Profile:
        """The profile of a place, from its outline."""
        if place not in self._known:
            try:
                self._known[place] = _Outline(self._limits, self._combiner, self._white_space).profile(place)
            except TooLarge:
                self._known[place] = Profile(own=UNLIMITED)
            except UnsupportedSchema as error:
                self._known[place] = Profile(error=error)
        return self._known[place]


class _Outline(Builder):
    def profile(self, place: Place) -> Profile:
        """The profile of a place. Raises TooLarge and UnsupportedSchema."""
        graph = self.graph
        following = graph.state((), accepting=True)
        continuation = Continuation(following=following, around=place.around, is_undeclared=place.is_undeclared)
        by_type = self.by_type([shape for shape in self.combiner.shapes(place.conj) if shape.literals is None])
        starts = list(self._containers_of(place, by_type, continuation, Split()))
        minimal = minimise(graph.rows, graph.accepting, graph.state(graph.merged([], *starts)))
        profile, inside = self._around, list(self._around.inside)
        before = [row for row in minimal.rows if row and row[0][0] > _FIRST]  # alternatives may share one of them
        copies = Counter(
            inside[label - _FIRST - 1] for row in before for first, last, _ in row for label in range(first, last + 1)
        )
        profile.own = max(len(minimal.rows) - 1 - profile.free[0] - len(before), 1)
        profile.inside = copies
        profile.required &= set(profile.inside)
        return profile

    def containers(self, place: Place, _: ByType, continuation: Continuation, /) -> Iterator[int]:
        """A state with a label of its own instead of a container, so that minimisation shows how many there are."""
        self._note(place, is_required=continuation.is_required)
        label = _FIRST + 1 + list(self._around.inside).index(place)
        yield self.graph.word((_FIRST, label), continuation.following)
