"""Waiting for slots: each one that is given back goes to exactly one waiting request, and none is lost."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.policy_types import Queue
from gateway.reliability.waiting_queue import Slots, Waiter
from gateway.types import Candidate, Target

LIMITS = {"one": 1, "two": 2}


def candidate(name: str, target: Callable[..., Target], most: int = 3) -> Candidate:
    queue = Queue(max_requests=most)
    return Candidate(route="r", target=target(name, max_in_flight=LIMITS[name], queue=queue))


class Requests(RuleBasedStateMachine):
    """Requests that come, wait, wake up, end and leave in any order."""

    make_target: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots()
        self.candidates = {name: candidate(name, self.make_target) for name in LIMITS}
        self.running: list[str] = []
        self.waiting: list[Waiter] = []
        self.woken: list[int] = []

    @rule(name=st.sampled_from(sorted(LIMITS)))
    def arrive(self, name: str) -> None:
        if not self.slots.is_full(name, LIMITS[name]):
            self.slots.take(name)
            self.running.append(name)

    @rule(names=st.lists(st.sampled_from(sorted(LIMITS)), min_size=1, unique=True), key=st.sampled_from("ab"))
    def wait(self, names: list[str], key: str) -> None:
        number = len(self.woken)
        self.woken.append(0)

        def wake() -> None:
            self.woken[number] += 1

        self.waiting.append(self.slots.wait([self.candidates[name] for name in names], key, wake))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), name=st.sampled_from(sorted(LIMITS)))
    def leave_one(self, data: st.DataObject, name: str) -> None:
        """Its time in this queue is over; it may have been evicted from it before."""
        data.draw(st.sampled_from(self.waiting)).leave(name)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        name = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        before = self._held()
        self.slots.give_back(name)
        assert self._held() - before <= 1  # exactly one wakes up, if any waits

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), gives_up=st.booleans())
    def wake_up(self, data: st.DataObject, gives_up: bool) -> None:
        waiter = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        if waiter.granted is not None and not gives_up:
            waiter.claim()
            self.running.append(waiter.granted.target.name)
        waiter.close()
        waiter.close()  # a second time changes nothing

    def _held(self) -> int:
        return sum(waiter.granted is not None for waiter in self.waiting)

    @invariant()
    def slots_are_counted_exactly_and_never_exceeded(self) -> None:
        for name, limit in LIMITS.items():
            held = sum(w.granted is not None and w.granted.target.name == name for w in self.waiting)
            assert self.slots.in_use.get(name, 0) == self.running.count(name) + held <= limit

    @invariant()
    def nobody_waits_beside_a_free_slot(self) -> None:
        for name, limit in LIMITS.items():
            waits = [waiter for waiter in self.waiting if name in waiter.waits_for]
            assert len(waits) == self.slots.waiting(name) <= 3
            assert not waits or self.slots.in_use[name] == limit

    @invariant()
    def each_is_woken_once_at_most(self) -> None:
        assert max(self.woken, default=0) <= 1


@pytest.fixture(name="machine")
def make_machine(target: Callable[..., Target]) -> type[Requests]:
    return type("Machine", (Requests,), {"make_target": staticmethod(target)})


@pytest.mark.slow
def test_slots_are_handed_over_one_by_one_in_any_order_of_events(machine: type[Requests]) -> None:
    machine.TestCase.settings = settings(stateful_step_count=40)
    case = machine.TestCase()
    case.runTest()


def test_a_request_that_came_later_cannot_take_the_slot_of_one_that_waits(target: Callable[..., Target]) -> None:
    slots, one = Slots(), candidate("one", target)
    slots.take("one")
    waiter = slots.wait([one], "a", lambda: None)
    slots.give_back("one")
    assert waiter.granted is one
    assert slots.is_full("one", 1)


def test_a_full_queue_refuses_at_once(target: Callable[..., Target]) -> None:
    slots, one = Slots(), candidate("one", target, most=1)
    slots.take("one")
    slots.wait([one], "a", lambda: None)
    assert not slots.wait([one], "a", lambda: None).waits_for
