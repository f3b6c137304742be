"""The cases of the demo, as data: requests to the gateway, and the responses that are expected.

Exact responses follow from the rules of the checkpoint's three tasks, not from what it happened to generate.
"""

from typing import Final

from twolane.demo.case_types import (
    Api,
    Case,
    Expectation,
    Group,
    answers_all,
    contains,
    equals,
    equals_json,
    error_code,
    matches_schema,
    not_empty,
)
from twolane.demo.fault_cases import CORRUPTED, KILLED, SLOW
from twolane.demo.prompts import (
    ADD,
    ANNA,
    ANNAS_ORDER,
    APPLIED,
    APPLY,
    AS_ORDER,
    CORRECTED,
    EDIT,
    FRANCE,
    GREEDY,
    ORDER_SCHEMA,
    PRIVATE,
    QUESTIONS,
    SHORT,
    SLOPPY,
)

FAST: Final = Group(
    title="Fast lane",
    description="Narrow, latency-bound tasks go to a diffusion model of 1.6 M parameters.",
    cases=(
        Case(
            title="clean up a commit subject (task label in metadata), drafted on a canvas and verified left to right",
            prompt=SLOPPY,
            body={"seed": 1, "metadata": {"task": "edit"}},
            expect=Expectation(
                task="edit",
                route="edits",
                target="careful",
                attempts="careful=ok",
                answer=equals("fix broken token in api"),
            ),
        ),
        Case(
            title="an edit with the old text as OpenAI's `prediction`",
            prompt="Clean up this commit subject: Removes stale cache from session.",
            body={**SHORT, "prediction": {"type": "content", "content": "Removes stale cache from session."}},
            expect=Expectation(
                task="edit",
                route="edits",
                target="careful",
                attempts="careful=ok",
                answer=equals("remove stale cache from session"),
            ),
        ),
        Case(
            title="extract an order as JSON, with a schema",
            prompt=ANNA,
            body=AS_ORDER,
            expect=Expectation(
                task="structured",
                route="constrained",
                target="fast",
                attempts="fast=ok",
                answer=equals_json(ANNAS_ORDER),
            ),
        ),
        Case(
            title="the same as a stream, validated before its first byte",
            prompt="Extract the order as JSON: please send 8 no wait 12 blue mug to leo by friday thanks",
            body=AS_ORDER,
            stream=True,
            expect=Expectation(
                task="structured",
                route="constrained",
                target="fast",
                attempts="fast=ok",
                answer=equals_json({"name": "leo", "qty": 12, "item": "blue mug", "day": "friday"}),
            ),
        ),
        Case(
            title="a 4x4 Sudoku (task label in metadata)",
            prompt="Solve this sudoku: 1__4_3__2___3__1",
            body={**SHORT, "metadata": {"task": "reasoning"}},
            expect=Expectation(
                task="reasoning",
                route="puzzles",
                target="fast",
                attempts="fast=ok",
                answer=equals("1234431221433421"),
            ),
        ),
        Case(
            title="the first edit denoised from its old text, selected by name",
            prompt=SLOPPY,
            body={**SHORT, "prediction": {"type": "content", "content": "Fixed brokn token in api."}},
            model="fast",
            expect=Expectation(
                route="direct", target="fast", attempts="fast=ok", answer=equals("fix broken token in api")
            ),
        ),
    ),
)

QUALITY: Final = Group(
    title="Quality lane",
    description="An autoregressive model answers all other requests, and those of low confidence.",
    cases=(
        Case(
            title="an open question",
            prompt=FRANCE,
            body=GREEDY,
            needs_smollm2=True,
            expect=Expectation(
                task="chat", route="default", target="quality", attempts="quality=ok", answer=contains("Paris")
            ),
        ),
        Case(
            title="an edit the small model was not trained for: low confidence",
            prompt="Rewrite this commit message to be clearer: 'fix stuff'",
            body=GREEDY,
            needs_smollm2=True,
            headers=EDIT,
            expect=Expectation(
                task="edit",
                route="edits",
                target="quality",
                attempts="careful=low_confidence,quality=ok",
                fallback="low_confidence",
                answer=not_empty(),
            ),
        ),
        Case(
            title="a known edit, sent to chat by a header",
            prompt=SLOPPY,
            body=GREEDY,
            headers={"x-twolane-task": "chat"},
            expect=Expectation(
                task="chat", route="default", target="quality", attempts="quality=ok", answer=not_empty()
            ),
        ),
        Case(
            title="an order with a schema, quality lane selected by name",
            prompt=ANNA,
            body=AS_ORDER,
            model="quality",
            expect=Expectation(
                route="direct", target="quality", attempts="quality=ok", answer=matches_schema(ORDER_SCHEMA)
            ),
        ),
    ),
)

PRIVACY: Final = Group(
    title="Privacy and errors",
    description="Private requests never leave the cluster, also after a failure; the quality lane counts as external.",
    cases=(
        Case(
            title="a private order",
            prompt=ANNA,
            body=AS_ORDER,
            headers=PRIVATE,
            expect=Expectation(
                task="structured",
                route="constrained",
                target="fast",
                attempts="fast=ok",
                answer=equals_json(ANNAS_ORDER),
            ),
        ),
        Case(
            title="a private question for which only an external target exists",
            prompt=FRANCE,
            body=GREEDY,
            headers=PRIVATE,
            expect=Expectation(status=503, answer=error_code("no_private_target")),
        ),
        Case(
            title="a model that does not exist",
            prompt=FRANCE,
            body=GREEDY,
            model="gpt-99",
            expect=Expectation(status=404, answer=error_code("model_not_found")),
        ),
    ),
)

EDITORS: Final = Group(
    title="Editors and decisions",
    description="The small model knows neither gaps nor patches. Of a decision, only doubtful questions change target.",
    cases=(
        Case(
            title="fill in the middle: a prompt and a suffix",
            prompt=ADD,
            body={**GREEDY, "max_tokens": 16, "suffix": "\n"},
            api=Api.COMPLETION,
            needs_smollm2=True,
            expect=Expectation(
                task="autocomplete",
                route="completions",
                target="quality",
                attempts="fast=low_confidence,quality=ok",
                fallback="low_confidence",
                answer=contains("a + b"),
            ),
        ),
        Case(
            title="apply an update to a file, in Morph's tags",
            prompt=APPLY,
            body=GREEDY,
            needs_smollm2=True,
            expect=Expectation(
                task="edit",
                route="edits",
                target="quality",
                attempts="careful=low_confidence,quality=ok",
                fallback="low_confidence",
                answer=contains(APPLIED),
            ),
        ),
        Case(
            title="a decision: the doubtful question is asked again of the same worker, verified left to right",
            prompt=CORRECTED,
            body={"questions": QUESTIONS},
            api=Api.DECISION,
            expect=Expectation(
                task="structured",
                route="constrained",
                target="careful",
                attempts="fast=low_confidence,careful=ok",
                fallback="low_confidence",
                answered_by="fast=0; careful=1",
                answer=answers_all({"day": "monday", "angry": None}),
            ),
        ),
    ),
)

GROUPS: Final = (FAST, QUALITY, EDITORS, PRIVACY, CORRUPTED, KILLED, SLOW)
