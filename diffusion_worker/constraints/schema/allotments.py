"""States for the containers of a schema: max-min fair shares of what a container has, from the root down.

How many states a container takes is known before it is built: those of its own, which an outline counts, and those of
what it contains. A container divides its states among what it contains (Bertsekas and Gallager, Data Networks, 6.5):
what needs less than an equal share gets all it needs, and leaves the rest to the others. So small values are complete
wherever they are, large and recursive ones are cut, and values near the root, which are few, get the most.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from diffusion_worker.constraints.schema.document import Conj
from diffusion_worker.errors import UnsupportedSchema

UNLIMITED: Final = 1 << 40
_MAX_LEVELS: Final = 32  # to which needs are added up


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What follows a value: the state after it, the nesting depth around it, and what is known of the value itself."""

    following: int
    depth: int = 0
    around: str = ""  # the opening bracket of the container, if the schema leaves its content unconstrained
    is_undeclared: bool = False  # the value of a member that the schema does not mention
    is_required: bool = False  # there is no value around it without it
    states: int = 0  # that its containers may take

    def nested(
        self,
        following: int,
        *,
        around: str = "",
        is_undeclared: bool = False,
        is_required: bool = False,
        states: int = 0,
    ) -> "Continuation":
        """The continuation one container deeper."""
        return Continuation(
            following=following,
            depth=self.depth + 1,
            around=around,
            is_undeclared=is_undeclared,
            is_required=is_required,
            states=states,
        )


@dataclass(frozen=True, slots=True)
class Place:
    """A value of the schema, seen as the containers that it may be: its subschemas, the opening bracket of the
    container around it if that is unconstrained, and whether it is an undeclared member."""

    conj: Conj
    around: str = ""
    is_undeclared: bool = False


@dataclass(slots=True)
class Profile:
    """What the containers of a place take. `own`: states besides the containers inside them; `free`: states of their
    unconstrained part, by depth; `inside`: how often each place occurs in them; `required`: those that must be there.
    `error`: why there are none."""

    own: int = 0
    free: tuple[int, ...] = (0,)
    inside: Counter[Place] = field(default_factory=Counter)
    required: set[Place] = field(default_factory=set)
    error: UnsupportedSchema | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """The states for the unconstrained part of a place, and for each place inside; those missing get none."""

    free: int = 0
    inside: Mapping[Place, int] = field(default_factory=dict)


NO_STATES: Final = Split()


class Allotments:
    """The shares of every container. `is_cut`: a container that gets less than it needs at least is left out;
    otherwise only unconstrained values depend on their share."""

    def __init__(self, profile_of: Callable[[Place], Profile], *, is_cut: bool) -> None:
        self._profile_of = profile_of
        self._is_cut = is_cut
        self._needs: dict[Place, tuple[int, bool]] = {}  # and whether it is exact; otherwise it is a lower bound
        self._least: dict[Place, int] = {}

    def split(self, place: Place, states: int) -> Split | None:
        """The shares of what a place with so many states contains; None: it is left out."""
        profile = self._profile_of(place)
        if profile.error is not None:
            raise profile.error
        if self._is_cut and states < self.least(place):
            return None
        least = {inside: self.least(inside) if inside in profile.required else 0 for inside in profile.inside}
        spare = states - profile.own - profile.free[0] - sum(least[key] * n for key, n in profile.inside.items())
        asking: list[tuple[int, int, Place | None]] = [
            (self.need(inside, states) - least[inside], count, inside) for inside, count in profile.inside.items()
        ]
        if profile.free[-1] > profile.free[0]:
            asking.append((profile.free[-1] - profile.free[0], 1, None))
        asking.sort(key=lambda each: each[0])
        waiting = sum(count for _, count, _ in asking)
        found: dict[Place | None, int] = {}
        for extra, count, inside in asking:
            share = min(extra, max(spare, 0) // waiting)
            waiting -= count
            if self._is_cut and inside is not None and share + least[inside] < self.least(inside):
                continue
            spare -= share * count
            found[inside] = share + (profile.free[0] if inside is None else least[inside])
        free = found.pop(None, profile.free[0])
        return Split(free=free, inside={inside: share for inside, share in found.items() if inside is not None})

    def need(self, place: Place, most: int, level: int = 0) -> int:
        """The states of everything that a place contains, but at most `most`."""
        known, is_exact = self._needs.get(place, (0, False))
        if is_exact or known >= most:
            return min(known, most)
        if level > _MAX_LEVELS:
            return most
        self._needs[place] = (UNLIMITED, False)  # a place inside itself
        profile = self._profile_of(place)
        found = UNLIMITED if profile.error else profile.own + profile.free[-1]
        for inside, count in profile.inside.items():
            if found >= most:
                break
            found += count * self.need(inside, most - found, level + 1)
        self._needs[place] = (found, found < most)
        return min(found, most)

    def least(self, place: Place) -> int:
        """The states that a place takes without anything optional inside."""
        if not self._is_cut:
            return 0
        if place not in self._least:
            self._least[place] = UNLIMITED  # a place that must be inside itself
            profile = self._profile_of(place)
            required = sum(profile.inside[inside] * self.least(inside) for inside in profile.required)
            self._least[place] = min(profile.own + profile.free[0] + required, UNLIMITED)
        return self._least[place]
