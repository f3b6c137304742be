"""One log line says why: failed attempts and changes of states, bounded, and without any text of requests."""

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.enums import (
    AttemptOutcome,
    BreakerState,
    ErrorSource,
    Kind,
    LaneState,
    Outcome,
    Reason,
    Residency,
)
from gateway.telemetry.event_log import (
    EVERY_S,
    EventLog,
    State,
    StateLog,
    log_policy,
    log_refused_policy,
    states_of,
)
from gateway.types import Health, Status, Target


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="gateway.events")


def test_a_failed_attempt_is_one_line_with_its_reason_target_route_and_request(
    decision: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first, *others = decision().attempts
    EventLog(lambda: 0.0).decided(decision(attempts=(replace(first, status=200), *others)))
    (record,) = caplog.records  # the skipped attempt and the served one are not failures
    fields = vars(record)["fields"]
    assert record.levelno == logging.WARNING
    assert (fields["route"], fields["target"], fields["reason"]) == ("edits", "fast", "invalid_output")
    assert (fields["request_id"], fields["served_by"]) == ("req_1", "quality")
    assert (fields["event"], fields["status"]) == ("attempt_failed", 200)
    for word in ("edits", "fast", "invalid_output", "required at #/properties/name", "req_1", "served by quality"):
        assert word in record.getMessage()


def test_a_failure_that_repeats_is_logged_once_per_interval_with_the_number_of_the_others(
    decision: Any, caplog: pytest.LogCaptureFixture
) -> None:
    time_s = 0.0
    log = EventLog(lambda: time_s)
    for _ in range(1000):
        log.decided(decision())
    assert len(caplog.records) == 1
    time_s = EVERY_S
    log.decided(decision())
    assert "999 more since the last line" in caplog.records[-1].getMessage()
    assert len(caplog.records) == 2


def test_other_failures_are_logged_meanwhile(decision: Any, caplog: pytest.LogCaptureFixture) -> None:
    log = EventLog(lambda: 0.0)
    log.decided(decision())
    first, *others = decision().attempts
    log.decided(decision(attempts=(replace(first, outcome=Reason.UPSTREAM_AUTH, detail="status 401"), *others)))
    log.decided(decision(route="other"))
    assert len(caplog.records) == 3
    assert "upstream_auth (status 401)" in caplog.records[1].getMessage()


@pytest.mark.parametrize(
    "outcome", [AttemptOutcome.OK, AttemptOutcome.CANCELLED, Reason.HEDGE, Reason.UNSUPPORTED, Reason.REFUSED]
)
def test_what_is_no_failure_of_a_target_is_not_logged(
    decision: Any, outcome: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (first, *_) = decision().attempts
    EventLog(lambda: 0.0).decided(decision(attempts=(replace(first, outcome=outcome),)))
    assert not caplog.records


def test_a_change_of_state_is_logged_once_and_the_end_of_trouble_is_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    why = {"reason": Reason.UPSTREAM_ERROR, "status": 503, "detail": "", "request_id": "req_1"}
    now = [State("lane", "edits/fast", "serving"), State("breaker", "fast", "closed"), State("target", "fast", "ready")]
    log = StateLog(lambda: now)
    log.look()
    assert not caplog.records, "all is well"
    now[0] = State("lane", "edits/fast", "ejected", lambda: {"p95_ms": 2300.0, "objective_ms": 2000})
    now[1] = State("breaker", "fast", "open", lambda: why)
    log.look()
    log.look()
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [
        ("WARNING", "lane edits/fast: ejected, was serving (p95_ms 2300.0; objective_ms 2000)"),
        ("WARNING", "breaker fast: open, was closed (reason upstream_error; status 503; request_id req_1)"),
    ]
    assert vars(caplog.records[1])["fields"].items() >= {"event": "breaker_changed", "status": 503}.items()
    now[0] = State("lane", "edits/fast", "serving")
    log.look()
    assert (caplog.records[-1].levelname, len(caplog.records)) == ("INFO", 3)


def test_a_target_that_is_not_ready_from_the_start_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    StateLog(lambda: [State("target", "fast", "loading")]).look()
    assert vars(caplog.records[0])["fields"]["state"] == "loading"


def test_a_request_that_nothing_could_serve_is_a_line_that_says_why_no_target_was_called(
    decision: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (_, skipped, _) = decision().attempts
    failed = {"outcome": Outcome.ERROR, "target": None, "status": 503, "attempts": (skipped,)}
    log = EventLog(lambda: 0.0)
    log.decided(decision(**failed, error_source=ErrorSource.TARGET))
    log.decided(decision(**failed, error_source=ErrorSource.TARGET))
    log.decided(decision(**failed, error_source=ErrorSource.CLIENT))
    (record,) = caplog.records
    fields = vars(record)["fields"]
    assert (fields["event"], fields["attempts"], fields["client_status"]) == (
        "request_failed", "careful=circuit_open", 503,
    )  # fmt: skip
    assert "careful=circuit_open; request req_1" in record.getMessage()


def test_a_breaker_that_opens_names_the_last_failure_of_its_own_endpoint(decision: Any) -> None:
    first, *_ = decision().attempts
    log = EventLog(lambda: 0.0)
    for url, status in (("a:1", 500), ("b:1", 502)):
        bad = replace(first, outcome=Reason.UPSTREAM_ERROR, url=url, status=status, detail=f"status {status}")
        log.decided(decision(attempts=(bad,), query_id=f"req_{url}"))
    one = Target(name="fast/1", kind=Kind.OPENAI, url="http://b:1", model="m", location="in_cluster", pool="fast")
    assert log.last_failure(one) == {
        "reason": Reason.UPSTREAM_ERROR, "status": 502, "detail": "status 502", "request_id": "req_b:1",
    }  # fmt: skip
    assert not log.last_failure(replace(one, url="http://c:1"))


class Store:
    """A state in which everything is bad."""

    def health(self, *_: Any) -> Health:
        return Health(status=Status(), lane=LaneState.EJECTED, breaker=BreakerState.OPEN)

    def p95_ms(self, *_: Any) -> float:
        return 2300.04


def test_states_know_their_causes(tmp_path: Any) -> None:
    from tests.gateway.telemetry.test_metrics import policy_of

    policy = policy_of(tmp_path, "{p95_ms: 2000}")
    asked: list[str] = []

    def last_failure(target: Target) -> dict[str, Any]:
        asked.append(target.name)
        return {"reason": "upstream_error"}

    clock: Any = SimpleNamespace(now_s=lambda: 0.0)
    store: Any = Store()
    status_of = lambda _: Status(residency=Residency.COLD)  # noqa: E731
    found = {
        (each.about, each.name): each
        for each in states_of(lambda: policy, store, clock, status_of=status_of, last_failure=last_failure)()
    }
    assert found[("lane", "edits/fast")].why() == {
        "p95_ms": 2300.0, "objective_ms": 2000, "first_token_objective_ms": None,
    }  # fmt: skip
    assert found[("breaker", "fast")].why() == {"reason": "upstream_error"}
    assert (asked, found[("target", "fast")].state) == (["fast"], "cold")


def test_the_policy_is_logged_when_it_was_loaded_and_when_it_was_not(caplog: pytest.LogCaptureFixture) -> None:
    log_policy("abc", is_changed=True)
    log_refused_policy("policy.yaml:3:1: routes: empty")
    said = [(record.levelname, vars(record)["fields"]["event"]) for record in caplog.records]
    assert said == [("INFO", "policy_loaded"), ("ERROR", "policy_refused")]
    assert "policy.yaml:3:1" in caplog.records[1].getMessage()
