"""The body of a decision: what OpenAI's client can send is understood, and everything else is refused by its path."""

from typing import Any

import pytest

from twolane.process.decisions.members import DecisionError, Problem
from twolane.process.decisions.questions import QuestionKind
from twolane.process.decisions.request import parse_decisions

PREDICATE = {"type": "predicate", "instructions": "Is it urgent?"}
CHOICE = {"type": "choice", "instructions": "Which?", "choices": [{"value": "a"}, {"value": True}]}
SCORE = {"type": "score", "instructions": "How?", "levels": [{"label": "low", "description": "bad"}, {"label": "high"}]}


def body(*questions: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "input": "text", "questions": list(questions or [PREDICATE]), **fields}


def choice(*values: Any) -> dict[str, Any]:
    return {**CHOICE, "choices": [{"value": value} for value in values]}


def nested(levels: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def items(*given: Any) -> dict[str, Any]:
    return body(input=list(given))


def user(*parts: Any) -> dict[str, Any]:
    return items({"role": "user", "content": list(parts)})


def test_all_three_types_are_understood() -> None:
    request = parse_decisions(body({**PREDICATE, "name": "n", "min_confidence": 0.9}, CHOICE, SCORE))
    first, second, third = request.questions
    assert (request.text, first.text, first.name, first.min_confidence) == ("text", "Is it urgent?", "n", 0.9)
    assert [option.value for option in second.options] == ["a", True]
    assert (third.kind, third.options[0].description) == (QuestionKind.SCORE, "bad")
    assert first.labels() == ("yes", "no")
    assert second.labels() == ("a", "true")


@pytest.mark.parametrize("values", [("true", True), ("", "a"), ("a ", "b"), ("a\nb", "c"), ("a\u2028b", "c")])
def test_values_that_a_line_of_text_cannot_tell_apart_are_numbered(values: tuple[Any, ...]) -> None:
    [question] = parse_decisions(body(choice(*values))).questions
    assert question.labels() == ("1", "2")


def test_items_are_one_text_in_their_order() -> None:
    request = parse_decisions(
        items(
            {"role": "system", "content": "s"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "u"}]},
            {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "seen"}]},
            {"type": "custom_tool_call", "call_id": "1", "name": "run", "input": "ls"},
            {"type": "custom_tool_call_output", "call_id": "1", "output": "files"},
            {"role": "assistant", "phase": "final_answer", "content": [{"type": "refusal", "refusal": "no"}]},
        )
    )
    assert request.text.splitlines() == [
        *("system: s", "user: u", "assistant: calls look: {}", "output of look: seen"),
        *("assistant: calls run: ls", "output of run: files", "assistant: no"),
    ]


def test_a_single_user_message_is_its_text() -> None:
    data = {"z": [1, 10**30], "a": None}
    parts = ({"type": "input_text", "text": "t", "prompt_cache_breakpoint": {"mode": "explicit"}},)
    assert parse_decisions(user(*parts, {"type": "input_json", "data": data})).text == (
        't\n{"z":[1,1000000000000000000000000000000],"a":null}'
    )


def test_the_limits_themselves_are_allowed() -> None:
    json_part = {"type": "input_json", "data": nested(32)}
    many = {"type": "input_json", "data": {"a": [0] * 9_998}}
    large = {"type": "input_json", "data": {"a": "x" * (256 * 1024 - 8)}}
    parse_decisions(user(json_part, many, large))
    assert len(parse_decisions(body(*[choice(*map(str, range(255)))] * 400)).questions) == 400


IMAGE = {"type": "input_image", "image_url": "https://example.com/a.png"}


@pytest.mark.parametrize(
    ("given", "param", "problem"),
    [
        ({"input": "t", "questions": [PREDICATE]}, "model", Problem.MISSING),
        ({"model": "m", "questions": [PREDICATE]}, "input", Problem.MISSING),
        (body(input=5), "input", Problem.TYPE),
        (body(input=[]), "input", Problem.VALUE),
        (body() | {"questions": []}, "questions", Problem.VALUE),
        (body() | {"questions": {}}, "questions", Problem.TYPE),
        (body(*[PREDICATE] * 401), "questions", Problem.VALUE),
        (body(PREDICATE, 3), "questions[1]", Problem.TYPE),
        (body({"instructions": "x"}), "questions[0].type", Problem.MISSING),
        (body({**PREDICATE, "type": "rank"}), "questions[0].type", Problem.VALUE),
        (body({"type": "predicate"}), "questions[0].instructions", Problem.MISSING),
        (body({**PREDICATE, "choices": []}), "questions[0].choices", Problem.UNSUPPORTED),
        (body({**PREDICATE, "name": 4}), "questions[0].name", Problem.TYPE),
        (body({**PREDICATE, "min_confidence": 1.5}), "questions[0].min_confidence", Problem.VALUE),
        (body({**PREDICATE, "min_confidence": True}), "questions[0].min_confidence", Problem.TYPE),
        (body({**PREDICATE, "instructions": [IMAGE]}), "questions[0].instructions[0]", Problem.UNSUPPORTED),
        (body(choice("a")), "questions[0].choices", Problem.VALUE),
        (body(choice(*map(str, range(256)))), "questions[0].choices", Problem.VALUE),
        (body(choice("a", "b", "a")), "questions[0].choices[2]", Problem.VALUE),
        (body(choice("a", 1)), "questions[0].choices[1].value", Problem.TYPE),
        (body({**SCORE, "levels": [{"label": "a"}, {}]}), "questions[0].levels[1].label", Problem.MISSING),
        (body({**SCORE, "levels": "ab"}), "questions[0].levels", Problem.TYPE),
        (body(prompt_cache_options={"ttl": "1h"}), "prompt_cache_options.ttl", Problem.VALUE),
        (body(safety_identifier=1), "safety_identifier", Problem.TYPE),
        (user(IMAGE), "input[0].content[0]", Problem.UNSUPPORTED),
        (user({"type": "input_file"}), "input[0].content[0].type", Problem.VALUE),
        (user({"type": "input_json", "data": [1]}), "input[0].content[0].data", Problem.TYPE),
        (user({"type": "input_json", "data": nested(33)}), "input[0].content[0].data", Problem.VALUE),
        (user({"type": "input_json", "data": {"a": [0] * 9_999}}), "input[0].content[0].data", Problem.VALUE),
        (user({"type": "input_json", "data": {"a": "x" * 2**18}}), "input[0].content[0].data", Problem.VALUE),
        (items({"role": "tool", "content": "x"}), "input[0].role", Problem.VALUE),
        (items({"role": "user"}), "input[0].content", Problem.MISSING),
        (
            items({"role": "system", "content": [{"type": "input_json", "data": {}}]}),
            "input[0].content[0].type",
            Problem.VALUE,
        ),
        (items({"type": "item_reference", "id": "x"}), "input[0].type", Problem.VALUE),
        (
            items({"type": "function_call_output", "call_id": "9", "output": "x"}),
            "input[0].call_id",
            Problem.VALUE,
        ),
    ],
)
def test_every_error_names_its_field(given: dict[str, Any], param: str, problem: Problem) -> None:
    with pytest.raises(DecisionError) as error:
        parse_decisions(given)
    assert (error.value.param, error.value.problem) == (param, problem)
