"""One log line says why: failed attempts and changes of states, bounded, and without any text of requests."""

import logging
from dataclasses import replace
from typing import Any

import pytest

from gateway.enums import AttemptOutcome, Reason
from gateway.telemetry.event_log import EVERY_S, EventLog, State, StateLog


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="gateway.events")


def test_a_failed_attempt_is_one_line_with_its_reason_target_route_and_request(
    decision: Any, caplog: pytest.LogCaptureFixture
) -> None:
    EventLog(lambda: 0.0).decided(decision())
    (record,) = caplog.records  # the skipped attempt and the served one are not failures
    fields = vars(record)["fields"]
    assert record.levelno == logging.WARNING
    assert (fields["route"], fields["target"], fields["reason"]) == ("edits", "fast", "invalid_output")
    assert (fields["request_id"], fields["served_by"]) == ("req_1", "quality")
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
    now: list[State] = [("lane", "edits/fast", "serving"), ("breaker", "fast", "closed"), ("target", "fast", "ready")]
    log = StateLog(lambda: now)
    log.look()
    assert not caplog.records, "all is well"
    now[0] = ("lane", "edits/fast", "ejected")
    now[1] = ("breaker", "fast", "open")
    log.look()
    log.look()
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [
        ("WARNING", "lane edits/fast: ejected, was serving"),
        ("WARNING", "breaker fast: open, was closed"),
    ]
    now[0] = ("lane", "edits/fast", "serving")
    log.look()
    assert (caplog.records[-1].levelname, len(caplog.records)) == ("INFO", 3)


def test_a_target_that_is_not_ready_from_the_start_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    StateLog(lambda: [("target", "fast", "loading")]).look()
    assert vars(caplog.records[0])["fields"]["state"] == "loading"
