"""The second half of the tour, as data: what is asked while something is broken, dead or slow."""

from typing import Final

from twolane.demo.case_types import Chapter, Expectation, Row, Scene, anything, error, exactly, fits, same_json
from twolane.demo.prompts import ANNA, ANNAS_ORDER, AS_ORDER, COOL, EDIT, ORDER_SCHEMA, PRIVATE, SHORT, SLOPPY

BROKEN: Final = Chapter(
    title="Broken answers",
    says="A proxy spoils what the worker sends. Nothing invalid leaves the gateway: it asks the next target.",
    rows=(
        Row(
            asked="one answer's JSON spoilt: the second reading of the same weights answers",
            prompt=ANNA,
            body=AS_ORDER,
            scene=Scene.SPOILT_ONCE,
            expect=Expectation(
                route="constrained",
                target="careful",
                attempts="fast=invalid_output,careful=ok",
                fallback="invalid_output",
                answer=same_json(ANNAS_ORDER),
            ),
        ),
        Row(
            asked="every answer's JSON spoilt, by stream",
            prompt=ANNA,
            body=AS_ORDER,
            stream=True,
            scene=Scene.SPOILT,
            expect=Expectation(
                route="constrained",
                target="quality",
                attempts="fast=invalid_output,careful=invalid_output,quality=ok",
                fallback="invalid_output",
                answer=fits(ORDER_SCHEMA),
            ),
        ),
        Row(
            asked="the same, private: better no answer than one from outside",
            prompt=ANNA,
            body=AS_ORDER,
            headers=PRIVATE,
            scene=Scene.SPOILT,
            expect=Expectation(
                status=503,
                route="constrained",
                attempts="fast=invalid_output,careful=invalid_output",
                fallback="invalid_output",
                answer=error("no_private_target"),
            ),
        ),
        Row(
            asked="the connection breaks inside the answer",
            prompt=SLOPPY,
            body=COOL,
            headers=EDIT,
            scene=Scene.CUT_OFF,
            expect=Expectation(
                route="edits",
                target="quality",
                attempts="fast=upstream_error,quality=ok",
                fallback="upstream_error",
                answer=anything(),
            ),
        ),
        Row(
            asked="the worker is crowded (429)",
            prompt=SLOPPY,
            body=COOL,
            headers=EDIT,
            scene=Scene.CROWDED,
            expect=Expectation(
                route="edits",
                target="quality",
                attempts="fast=overloaded,quality=ok",
                fallback="overloaded",
                answer=anything(),
            ),
        ),
    ),
)

DEAD: Final = Chapter(
    title="A dead worker",
    says="The worker's process is killed, and later started again.",
    rows=(
        Row(
            asked="orders, while there is no worker: all are answered",
            prompt=ANNA,
            body=AS_ORDER,
            scene=Scene.KILLED,
            times=4,
            expect=Expectation(
                route="constrained",
                target="quality",
                attempts="fast=(upstream_error|not_resident|circuit_open),.*quality=ok",
                fallback="upstream_error|not_resident|circuit_open",
                answer=fits(ORDER_SCHEMA),
            ),
        ),
        Row(
            asked="the worker is started again: the fast lane is back",
            prompt=ANNA,
            body=AS_ORDER,
            until=True,
            expect=Expectation(route="constrained", target="fast", attempts="fast=ok", answer=same_json(ANNAS_ORDER)),
        ),
    ),
)

SLOW: Final = Chapter(
    title="A slow worker",
    says="The worker's answers come later than the lane's SLO allows: late is not wrong, but the lane is ejected.",
    rows=(
        Row(
            asked="edits at once: all come late",
            prompt=SLOPPY,
            body=SHORT,
            headers=EDIT,
            scene=Scene.SLOW,
            times=12,
            together=True,
            expect=Expectation(
                route="edits", target="fast", attempts="fast=ok", answer=exactly("fix broken token in api")
            ),
        ),
        Row(
            asked="the next edits do not wait for a slow lane",
            prompt=SLOPPY,
            body=COOL,
            headers=EDIT,
            scene=Scene.SLOW,
            times=2,  # at once: where one is the probe of a benched lane, the other is not
            together=True,
            until=True,
            expect=Expectation(
                route="edits",
                target="quality",
                attempts="fast=p95_breach,quality=ok",
                fallback="p95_breach",
                answer=anything(),
            ),
        ),
        Row(
            asked="the worker is quick again: probes find out, the lane heals",
            prompt=SLOPPY,
            body=COOL,
            headers=EDIT,
            until=True,
            in_a_row=35,  # more than probing lets through
            expect=Expectation(
                route="edits", target="fast", attempts="fast=ok", answer=exactly("fix broken token in api")
            ),
        ),
    ),
)
