"""Shares of states: max-min fair, and never more than there are."""

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.compile import compile_schema
from diffusion_worker.constraints.schema.allotments import Allotments, Place, Profile
from diffusion_worker.constraints.schema.combine import Combiner
from diffusion_worker.constraints.schema.document import Document
from diffusion_worker.constraints.schema.outlines import Outlines
from diffusion_worker.constraints.schema.size_limits import SIZE_TIERS
from diffusion_worker.constraints.schema.validation import SchemaValidator
from diffusion_worker.constraints.spec import WhiteSpace

DENSE = next(limits for limits in SIZE_TIERS if limits.dense)


def place(name: str) -> Place:
    return Place((), around=name)


@dataclass
class Tree:
    """A profile: its own states, the sizes of its unconstrained part, and (place inside, count, required)."""

    own: int = 1
    free: tuple[int, ...] = (0,)
    inside: list[tuple[str, int, bool]] = field(default_factory=list)

    def profile(self) -> Profile:
        return Profile(
            own=self.own,
            free=self.free,
            inside=Counter({place(name): count for name, count, _ in self.inside}),
            required={place(name) for name, _, is_required in self.inside if is_required},
        )


def allotments(*, is_cut: bool = True, **trees: Tree) -> Allotments:
    profiles = {place(name): tree.profile() for name, tree in trees.items()}
    return Allotments(profiles.__getitem__, is_cut=is_cut)


def shares(found: Allotments, name: str, states: int) -> dict[str, int]:
    split = found.split(place(name), states)
    assert split is not None
    return {inside.around: share for inside, share in split.inside.items()}


def test_what_needs_less_than_an_equal_share_leaves_the_rest_to_the_others() -> None:
    found = allotments(
        root=Tree(own=10, inside=[("small", 1, False), ("large", 1, False), ("huge", 1, False)]),
        small=Tree(own=5),
        large=Tree(own=20, free=(0, 1000)),
        huge=Tree(own=20, free=(0, 5000)),
    )
    assert shares(found, "root", 215) == {"small": 5, "large": 100, "huge": 100}
    assert shares(found, "root", 9999) == {"small": 5, "large": 1020, "huge": 5020}


def test_a_container_that_gets_too_little_leaves_its_share_too() -> None:
    found = allotments(
        root=Tree(own=10, inside=[("bulky", 1, False), ("deep", 1, False)]),
        bulky=Tree(own=80),
        deep=Tree(own=20, free=(0, 1000)),
    )
    assert shares(found, "root", 150) == {"deep": 140}
    assert shares(found, "root", 190) == {"bulky": 80, "deep": 100}
    assert found.split(place("root"), 9) is None


def test_what_is_required_comes_first() -> None:
    found = allotments(
        root=Tree(own=10, inside=[("must", 1, True), ("may", 1, False)]),
        must=Tree(own=50, inside=[("inner", 2, True)]),
        inner=Tree(own=10),
        may=Tree(own=5, free=(0, 1000)),
    )
    assert found.least(place("root")) == 80
    assert shares(found, "root", 80) == {"must": 70}
    assert shares(found, "root", 100) == {"must": 70, "may": 20}
    assert found.split(place("root"), 79) is None


def test_a_recursive_place_takes_whatever_is_left() -> None:
    found = allotments(
        root=Tree(inside=[("tree", 1, False), ("leaf", 1, False)]),
        tree=Tree(own=4, inside=[("tree", 2, False)]),
        leaf=Tree(own=7),
    )
    assert found.need(place("tree"), 10**6) == 10**6
    assert shares(found, "root", 1000) == {"leaf": 7, "tree": 992}
    assert shares(found, "tree", 992) == {"tree": 494}


def test_a_place_that_requires_itself_is_left_out() -> None:
    found = allotments(
        root=Tree(inside=[("endless", 1, False), ("leaf", 1, False)]),
        endless=Tree(inside=[("endless", 1, True)]),
        leaf=Tree(own=7),
    )
    assert shares(found, "root", 1000) == {"leaf": 7}


TREES = st.lists(
    st.builds(
        Tree,
        own=st.integers(1, 30),
        free=st.sampled_from([(0,), (0, 20), (3, 10, 50)]),
        inside=st.lists(
            st.tuples(st.sampled_from("abcd"), st.integers(1, 3), st.booleans()),
            max_size=3,
            unique_by=lambda each: each[0],
        ),
    ),
    min_size=4,
    max_size=4,
)


def taken(found: Allotments, trees: dict[str, Tree], name: str, states: int) -> int:
    """The states that are used below a place."""
    split = found.split(place(name), states)
    if split is None:
        return 0
    tree = trees[name]
    free = max(size for size in tree.free if size <= max(split.free, tree.free[0]))
    inside = ((count, split.inside.get(place(each), 0), each) for each, count, _ in tree.inside)
    return tree.own + free + sum(count * taken(found, trees, each, share) for count, share, each in inside if share)


@given(TREES, st.integers(0, 400))
def test_no_more_states_are_used_than_there_are(listed: list[Tree], states: int) -> None:
    """In trees that may contain themselves; and all of a place is there where its need is met."""
    trees = dict(zip("abcd", listed, strict=True))
    found = allotments(**trees)
    used = taken(found, trees, "a", states)
    assert used <= states
    if found.need(place("a"), states + 1) <= states and found.least(place("a")) <= states:
        assert used == found.need(place("a"), states + 1)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}},
        {"type": "object", "properties": {name: {"type": "object"} for name in "abc"}, "additionalProperties": False},
        {
            "type": "object",
            "required": ["a"],
            "properties": {"a": {"enum": ["x", {"y": [1]}]}, "b": {"type": "string", "format": "date"}},
        },
    ],
)
def test_outlines_predict_the_states_of_a_document(schema: dict[str, object]) -> None:
    """Of a schema that is kept entirely, within a few states where brackets of several values are shared."""
    document = Document(schema)
    outlines = Outlines(DENSE, Combiner(document, SchemaValidator(schema)), WhiteSpace.BOUNDED)
    predicted = Allotments(outlines.profile, is_cut=True).need(Place((document.root,)), 10**6)
    states = compile_schema(schema, tiers=(replace(DENSE, states=20_000),)).stats.states
    assert abs(predicted - states) <= 5 + states // 20
