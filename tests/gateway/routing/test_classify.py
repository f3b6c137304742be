"""Classification: the kinds of evidence, their order, and their confidence."""

from collections.abc import Callable

import pytest

from gateway.enums import FormatKind, Task
from gateway.routing.classify import CONFIDENCE, classify
from gateway.types import Classification, OutputFormat, Query
from tests.measured import cpu_s

MakeQuery = Callable[..., Query]
SCHEMA = OutputFormat(form=FormatKind.JSON_SCHEMA, schema={})


def test_a_task_named_by_the_client_has_priority(query: MakeQuery) -> None:
    asked = query(task_hint=Task.SUMMARIZE, task_hint_from="metadata", has_prediction=True, output_format=SCHEMA)
    assert classify(asked) == Classification(task=Task.SUMMARIZE, confidence=1.0, evidence="metadata")


@pytest.mark.parametrize(
    ("fields", "task", "evidence"),
    [
        ({"has_prediction": True}, Task.EDIT, "prediction"),
        ({"has_suffix": True}, Task.AUTOCOMPLETE, "suffix"),
        ({"has_tools": True, "output_format": SCHEMA}, Task.AGENT, "tools"),
        ({"output_format": SCHEMA}, Task.STRUCTURED, "response_format"),
        ({"output_format": OutputFormat(form=FormatKind.JSON_OBJECT)}, Task.STRUCTURED, "response_format"),
        ({"output_format": OutputFormat(form=FormatKind.REGEX, pattern="a")}, Task.STRUCTURED, "structured_outputs"),
        (
            {"output_format": OutputFormat(form=FormatKind.CHOICE, choices=("a",))},
            Task.STRUCTURED,
            "structured_outputs",
        ),
        ({"last_user_text": "<|fim_prefix|>def f(<|fim_suffix|>)<|fim_middle|>"}, Task.AUTOCOMPLETE, "fim_markers"),
        ({"last_user_text": "<fim_prefix>a<fim_suffix>b<fim_middle>"}, Task.AUTOCOMPLETE, "fim_markers"),
        ({"last_user_text": "<｜fim▁begin｜>a<｜fim▁hole｜>b<｜fim▁end｜>"}, Task.AUTOCOMPLETE, "fim_markers"),
        ({"last_user_text": "<PRE> a <SUF> b <MID>"}, Task.AUTOCOMPLETE, "fim_markers"),
    ],
)
def test_the_structure_of_a_request_determines_its_task(
    query: MakeQuery, fields: dict[str, object], task: Task, evidence: str
) -> None:
    found = classify(query(**fields))
    assert (found.task, found.evidence) == (task, evidence)
    assert found.confidence == CONFIDENCE[evidence] >= 0.9


@pytest.mark.parametrize(
    "text",
    [
        "What is the capital of France?",
        "",
        "```\ncode\n```",
        "Why does this fail?\n```python\nx = 1\n```",
        "Merge\n```\na\n```\nand\n```\nb\n```",
        "Compare 1 < 2 and the word fim_prefix",
        "``` not a fence",
        "<" * 100_000,
        "```\n" * 20_000,
        "\x00\ud7ff🦊",
    ],
)
def test_without_evidence_it_is_a_chat_with_a_confidence_below_any_threshold(query: MakeQuery, text: str) -> None:
    found = classify(query(last_user_text=text))
    assert (found.task, found.evidence) == (Task.CHAT, "none")
    assert found.confidence < 0.6


def test_markers_are_found_at_both_ends_of_a_long_text(query: MakeQuery) -> None:
    filler = "word " * 50_000
    for text in ("<fim_prefix>" + filler, filler + "<fim_middle>"):
        assert classify(query(last_user_text=text)).task is Task.AUTOCOMPLETE


def test_more_stages_can_follow(query: MakeQuery) -> None:
    def learned(_: Query) -> Classification:
        return Classification(task=Task.TRANSLATE, confidence=0.8, evidence="words")

    assert classify(query(), (learned,)).task is Task.TRANSLATE


@pytest.mark.parametrize("text", ["```a\n" * 6400, "\n" * 32_000 + "```a", "```a\n" + " \n" * 15_000, "<|fim" * 6000])
def test_hostile_text_takes_linear_time(query: MakeQuery, text: str) -> None:
    """Linear time: eight times the text takes eight times as long, not sixty-four."""
    part, whole = query(last_user_text=text[: len(text) // 8]), query(last_user_text=text)
    assert cpu_s(lambda: classify(whole), times=9) < 40 * cpu_s(lambda: classify(part), times=9)
