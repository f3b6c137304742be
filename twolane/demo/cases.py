"""The tour itself, as data: what is asked of the gateway, and everything that must come of it.

Exact answers follow from the rules of the checkpoint's three tasks, not from what it happens to say.
"""

from typing import Final

from twolane.demo.case_types import Chapter, Expectation, Row, anything, error, exactly, fits, same_json, speaks_of
from twolane.demo.fault_cases import BROKEN, DEAD, SLOW
from twolane.demo.prompts import (
    ANNA,
    ANNAS_ORDER,
    AS_ORDER,
    COOL,
    EDIT,
    FRANCE,
    ORDER_SCHEMA,
    PRIVATE,
    SHORT,
    SLOPPY,
)

FAST: Final = Chapter(
    title="The fast lane",
    says="Narrow, latency-bound work goes to a 1.6 M diffusion model that writes whole answers at once.",
    rows=(
        Row(
            asked="clean up a commit subject (task named in metadata)",
            prompt=SLOPPY,
            body={"seed": 1, "metadata": {"task": "edit"}},
            expect=Expectation(
                task="edit",
                route="edits",
                target="fast",
                attempts="fast=ok",
                answer=exactly("fix broken token in api"),
            ),
        ),
        Row(
            asked="an edit, the old text given as OpenAI's prediction",
            prompt="Clean up this commit subject: Removes stale cache from session.",
            body={**SHORT, "prediction": {"type": "content", "content": "Removes stale cache from session."}},
            expect=Expectation(
                task="edit",
                route="edits",
                target="fast",
                attempts="fast=ok",
                answer=exactly("remove stale cache from session"),
            ),
        ),
        Row(
            asked="an order as JSON, by schema",
            prompt=ANNA,
            body=AS_ORDER,
            expect=Expectation(
                task="structured",
                route="constrained",
                target="fast",
                attempts="fast=ok",
                answer=same_json(ANNAS_ORDER),
            ),
        ),
        Row(
            asked="the same by stream: checked before its first byte leaves",
            prompt="Extract the order as JSON: please send 8 no wait 12 blue mug to leo by friday thanks",
            body=AS_ORDER,
            stream=True,
            expect=Expectation(
                task="structured",
                route="constrained",
                target="fast",
                attempts="fast=ok",
                answer=same_json({"name": "leo", "qty": 12, "item": "blue mug", "day": "friday"}),
            ),
        ),
        Row(
            asked="a 4x4 Sudoku (task named in metadata)",
            prompt="Solve this sudoku: 1__4_3__2___3__1",
            body={**SHORT, "metadata": {"task": "reasoning"}},
            expect=Expectation(
                task="reasoning",
                route="puzzles",
                target="fast",
                attempts="fast=ok",
                answer=exactly("1234431221433421"),
            ),
        ),
        Row(
            asked="the same weights read left to right, asked for by name",
            prompt=SLOPPY,
            body=SHORT,
            model="careful",
            expect=Expectation(
                route="direct", target="careful", attempts="careful=ok", answer=exactly("fix broken token in api")
            ),
        ),
    ),
)

QUALITY: Final = Chapter(
    title="The quality lane",
    says="Everything else goes to an autoregressive model, and so does what the fast lane is unsure of.",
    rows=(
        Row(
            asked="an open question",
            prompt=FRANCE,
            body=COOL,
            needs_smollm2=True,
            expect=Expectation(
                task="chat", route="default", target="quality", attempts="quality=ok", answer=speaks_of("Paris")
            ),
        ),
        Row(
            asked="an edit the small model never learnt: it says it is unsure",
            prompt="Rewrite this commit message to be clearer: 'fix stuff'",
            body=COOL,
            needs_smollm2=True,
            headers=EDIT,
            expect=Expectation(
                task="edit",
                route="edits",
                target="quality",
                attempts="fast=low_confidence,quality=ok",
                fallback="low_confidence",
                answer=anything(),
            ),
        ),
        Row(
            asked="a known edit, but the header says chat",
            prompt=SLOPPY,
            body=COOL,
            headers={"x-twolane-task": "chat"},
            expect=Expectation(
                task="chat", route="default", target="quality", attempts="quality=ok", answer=anything()
            ),
        ),
        Row(
            asked="an order by schema, from the quality lane by name",
            prompt=ANNA,
            body=AS_ORDER,
            model="quality",
            expect=Expectation(route="direct", target="quality", attempts="quality=ok", answer=fits(ORDER_SCHEMA)),
        ),
    ),
)

RULES: Final = Chapter(
    title="Rules hold",
    says="What is private stays in the cluster, also when something goes wrong; the quality lane counts as outside.",
    rows=(
        Row(
            asked="a private order",
            prompt=ANNA,
            body=AS_ORDER,
            headers=PRIVATE,
            expect=Expectation(
                task="structured",
                route="constrained",
                target="fast",
                attempts="fast=ok",
                answer=same_json(ANNAS_ORDER),
            ),
        ),
        Row(
            asked="a private question only the outside could answer",
            prompt=FRANCE,
            body=COOL,
            headers=PRIVATE,
            expect=Expectation(status=503, answer=error("no_private_target")),
        ),
        Row(
            asked="a model nobody serves",
            prompt=FRANCE,
            body=COOL,
            model="gpt-99",
            expect=Expectation(status=404, answer=error("model_not_found")),
        ),
    ),
)

TOUR: Final = (FAST, QUALITY, RULES, BROKEN, DEAD, SLOW)
