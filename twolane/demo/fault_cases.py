"""The cases with faults: requests while the worker's responses are corrupted, or it is killed, or slow."""

from typing import Final

from twolane.demo.case_types import (
    Case,
    DemoFault,
    Expectation,
    Group,
    equals,
    equals_json,
    error_code,
    matches_schema,
    not_empty,
)
from twolane.demo.prompts import ANNA, ANNAS_ORDER, AS_ORDER, BRIEF, EDIT, ORDER_SCHEMA, PRIVATE, SHORT, SLOPPY

CORRUPTED: Final = Group(
    title="Corrupted responses",
    description="A proxy corrupts the worker's responses. The gateway rejects invalid ones and tries the next target.",
    cases=(
        Case(
            title="one corrupted response: the second target answers",
            prompt=ANNA,
            body=AS_ORDER,
            fault=DemoFault.CORRUPT_ALTERNATE,
            expect=Expectation(
                route="constrained",
                target="careful",
                attempts="fast=invalid_output,careful=ok",
                fallback="invalid_output",
                answer=equals_json(ANNAS_ORDER),
            ),
        ),
        Case(
            title="every response corrupted, streamed",
            prompt=ANNA,
            body=AS_ORDER,
            stream=True,
            fault=DemoFault.CORRUPT,
            expect=Expectation(
                route="constrained",
                target="quality",
                attempts="fast=invalid_output,careful=invalid_output,quality=ok",
                fallback="invalid_output",
                answer=matches_schema(ORDER_SCHEMA),
            ),
        ),
        Case(
            title="the same, private: an error instead of an external target",
            prompt=ANNA,
            body=AS_ORDER,
            headers=PRIVATE,
            fault=DemoFault.CORRUPT,
            expect=Expectation(
                status=502,
                route="constrained",
                attempts="fast=invalid_output,careful=invalid_output",
                fallback="invalid_output",
                answer=error_code("invalid_output"),
            ),
        ),
        Case(
            title="the connection closes within the response",
            prompt=SLOPPY,
            body=BRIEF,
            headers=EDIT,
            fault=DemoFault.TRUNCATE,
            expect=Expectation(
                route="edits",
                target="quality",
                attempts="careful=upstream_error,quality=ok",
                fallback="upstream_error",
                answer=not_empty(),
            ),
        ),
        Case(
            title="the worker is overloaded (429)",
            prompt=SLOPPY,
            body=BRIEF,
            headers=EDIT,
            fault=DemoFault.OVERLOADED,
            expect=Expectation(
                route="edits",
                target="quality",
                attempts="careful=overloaded,quality=ok",
                fallback="overloaded",
                answer=not_empty(),
            ),
        ),
    ),
)

KILLED: Final = Group(
    title="Killed worker",
    description="The worker process is killed and later restarted.",
    cases=(
        Case(
            title="orders without a worker: all are answered",
            prompt=ANNA,
            body=AS_ORDER,
            fault=DemoFault.WORKER_KILLED,
            times=4,
            expect=Expectation(
                route="constrained",
                target="quality",
                attempts="fast=(upstream_error|not_resident|circuit_open),.*quality=ok",
                fallback="upstream_error|not_resident|circuit_open",
                answer=matches_schema(ORDER_SCHEMA),
            ),
        ),
        Case(
            title="the worker is restarted: the fast lane recovers",
            prompt=ANNA,
            body=AS_ORDER,
            repeat=True,
            expect=Expectation(route="constrained", target="fast", attempts="fast=ok", answer=equals_json(ANNAS_ORDER)),
        ),
    ),
)

SLOW: Final = Group(
    title="Slow worker",
    description="Valid responses arrive later than the lane's SLO allows, so the lane is ejected.",
    cases=(
        Case(
            title="concurrent edits: all are late",
            prompt=SLOPPY,
            body=SHORT,
            headers=EDIT,
            fault=DemoFault.WORKER_SLOW,
            times=12,
            concurrent=True,
            expect=Expectation(
                route="edits", target="careful", attempts="careful=ok", answer=equals("fix broken token in api")
            ),
        ),
        Case(
            title="the next edits skip the slow lane",
            prompt=SLOPPY,
            body=BRIEF,
            headers=EDIT,
            fault=DemoFault.WORKER_SLOW,
            times=2,  # concurrent: if one is the probe of an ejected lane, the other is not
            concurrent=True,
            repeat=True,
            expect=Expectation(
                route="edits",
                target="quality",
                attempts="careful=p95_breach,quality=ok",
                fallback="p95_breach",
                answer=not_empty(),
            ),
        ),
        Case(
            title="the worker is fast again: probes succeed, the lane recovers",
            prompt=SLOPPY,
            body=BRIEF,
            headers=EDIT,
            repeat=True,
            consecutive=35,  # more than probing admits
            expect=Expectation(
                route="edits", target="careful", attempts="careful=ok", answer=equals("fix broken token in api")
            ),
        ),
    ),
)
