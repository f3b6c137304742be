"""The console records when a lane changes its state, and why."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.enums import LaneState
from gateway.policy_files.load import parse
from gateway.policy_types import Slo
from gateway.types import Health, Status
from gateway.web.console.lanes import LaneWatch

POLICY = parse(
    """
version: 1
targets:
  a: {kind: openai, engine: openai, url: "http://127.0.0.1:1", model: m, location: in_cluster, max_in_flight: 4}
  b: {kind: openai, engine: openai, url: "http://127.0.0.1:2", model: m, location: external}
routes:
  - {name: default, use: a, fall_back: b, slo: {p95_ms: 500}}
""",
    {},
)


class State:
    """See `ports.StateStore`: lanes are in `lane`."""

    lane = LaneState.SERVING

    def health(self, candidate: Any, status: Status, now_s: float) -> Health:
        return Health(status=status, lane=self.lane if candidate.target.name == "a" else LaneState.SERVING, in_flight=3)

    def p95_ms(self, candidate: Any, now_s: float) -> float:
        return 812.4


@pytest.fixture
def watch() -> Any:
    clock: Any = SimpleNamespace(now_s=lambda: 5.0, wall_s=lambda: 1000.0)
    state: Any = State()
    return LaneWatch(policy=lambda: POLICY, state=state, clock=clock, status_of=lambda _: Status())


def test_a_change_is_recorded_once_with_its_figures(watch: Any) -> None:
    for state in (LaneState.SERVING, LaneState.EJECTED, LaneState.EJECTED, LaneState.PROBING, LaneState.SERVING):
        watch.state.lane = state
        watch.look()
    assert [(each.target, each.state) for each in watch.changes] == [
        ("a", "ejected"),
        ("a", "probing"),
        ("a", "serving"),
    ]
    assert watch.changes[0].reason == "p95 over the objective of 500 ms, measured p95 812 ms"


def test_the_document_has_every_lane_and_every_target_once(watch: Any) -> None:
    shown = watch.document([])
    lane = shown["lanes"][0]
    assert (lane["route"], lane["target"], lane["budget_ms"]) == ("default", "a", 500)
    assert [(each["target"], each["in_flight"], each["max_in_flight"]) for each in shown["targets"]] == [
        ("a", 3, 4),
        ("b", 3, POLICY.targets["b"].max_in_flight),
    ]


def test_an_objective_of_the_first_token_alone_is_named_as_such(watch: Any) -> None:
    lane = POLICY.lanes[0]
    slo = Slo(first_token_p95_ms=250)
    watch.policy = lambda: SimpleNamespace(lanes=(replace(lane, slo=slo),))
    watch.state.lane = LaneState.EJECTED
    watch.look()
    assert watch.changes[0].reason == "p95 over the objective of 250 ms to the first token, measured p95 812 ms"
