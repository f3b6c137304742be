"""`/v1/decisions` through a real gateway: only doubtful questions reach the quality lane, and one answer comes back."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import orjson
import pytest
from aiohttp import web

from tests.gateway.serving import RealGateway, completion, fake_server, until_known

pytestmark = pytest.mark.anyio
PATH = "/v1/decisions"
READY = {"state": "ready", "predicted_wait_ms": 0}
POLICY = """
version: 1
targets:
  fast: {kind: worker, url: "%s", model: diffusion, location: in_cluster, diffusion: {steps: 8}}
  quality: {kind: openai, %s url: "%s", model: big, location: external}
routes:
  - {name: decisions, when: {task: structured}, use: fast, fall_back: [quality], min_confidence: 0.8}
  - {name: default, use: quality}
"""
OWN = "capabilities: [decisions],"
CHAT_ONLY = "engine: openai,"


def predicate(number: int, **more: Any) -> dict[str, Any]:
    return {"type": "predicate", "instructions": f"Is it {number}?", "name": f"q{number}", **more}


COLOURS = [{"value": "red"}, {"value": True}, {"value": "true", "description": "the word"}]
CHOICE = {"type": "choice", "instructions": "Which?", "choices": COLOURS}
SCORE = {"type": "score", "instructions": "How?", "levels": [{"label": "low"}, {"label": "high"}]}
REFUSAL = {"type": "refusal", "name": None}


def sure(probability: float, name: str | None = None) -> dict[str, Any]:
    return {"type": "predicate", "name": name, "probability": probability}


def decided(*answers: dict[str, Any]) -> dict[str, Any]:
    details = {"cached_tokens": 0, "cache_write_tokens": 0}
    usage = {"input_tokens": 10, "input_tokens_details": details, "output_tokens": 2, "total_tokens": 12}
    usage["output_tokens_details"] = {"reasoning_tokens": 0}
    return {"answers": list(answers), "model": "diffusion", "usage": usage}


class Stack:
    """A gateway, a fake worker with decisions, and a quality target; each answers with what `say` is given."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.gateway: RealGateway
        self.fast: Any
        self.quality: Any

    def answer(self, lane: str) -> Any:
        async def answer(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
            said = self.answers[lane]
            return web.json_response(said, status=said.get("status", 200))

        return answer

    async def ask(self, *questions: Any, fast: Any, quality: Any = None, **fields: Any) -> Any:
        self.answers = {"fast": fast, "quality": quality}
        body = {"model": "auto", "input": "A red lamp", "questions": list(questions), **fields}
        return await self.gateway.ask(body, path=PATH)


async def start(serving: Any, quality_has: str) -> AsyncIterator[Stack]:
    stack = Stack()
    can = {"chat": True, "json_schema": "guaranteed", "decisions": True}
    models = {"data": [{"id": "diffusion", "twolane": {"capabilities": can}}]}
    async with (
        fake_server(stack.answer("fast"), health=READY, models=models) as stack.fast,
        fake_server(stack.answer("quality")) as stack.quality,
        serving(POLICY % (stack.fast.url, quality_has, stack.quality.url)) as stack.gateway,
    ):
        await until_known(stack.gateway, "fast")
        yield stack


@pytest.fixture
async def stack(serving: Any) -> AsyncIterator[Stack]:
    async for each in start(serving, CHAT_ONLY):
        yield each


@pytest.fixture
async def deciding(serving: Any) -> AsyncIterator[Stack]:
    """The quality lane has decisions of its own."""
    async for each in start(serving, OWN):
        yield each


async def test_sure_answers_are_the_workers_own(stack: Stack) -> None:
    """The worker gets OpenAI's body without our members and the hints that it does not know; no is as sure as yes."""
    questions = [predicate(0, min_confidence=0.5), predicate(1)]
    status, headers, told = await stack.ask(*questions, fast=decided(sure(0.6), sure(0.1)), prompt_cache_key="k")
    assert (status, headers["x-twolane-answered-by"], headers["x-twolane-task"]) == (200, "fast=0-1", "structured")
    assert told == {**decided(sure(0.6), sure(0.1)), "model": "auto"}
    assert (stack.fast.paths, stack.quality.paths) == ([PATH], [])
    assert stack.fast.bodies == [
        {
            "model": "diffusion",
            "input": "A red lamp",
            "questions": [{k: v for k, v in each.items() if k != "min_confidence"} for each in questions],
        }
    ]


async def test_only_doubtful_questions_are_asked_of_a_chat_model(stack: Stack) -> None:
    """As a JSON Schema of enums; its answers take their places among the worker's, and the usage is the sum."""
    unsure_choice = {"type": "choice", "name": None, "choice": "red", "confidence": 0.5, "probabilities": []}
    questions = [
        predicate(0),
        predicate(1),
        predicate(2),
        predicate(3),
        CHOICE,
        SCORE,
        predicate(6, min_confidence=0.99),
    ]
    score = {"type": "score", "name": None, "score": 1.0, "confidence": 0.9, "probabilities": []}
    fast = decided(sure(0.9), sure(0.1), sure(0.95), sure(0.5), unsure_choice, score, sure(0.98))
    reply = {"1": "no", "2": "2", "3": "yes"}
    status, headers, told = await stack.ask(*questions, fast=fast, quality=completion(orjson.dumps(reply).decode()))
    assert status == 200, told
    assert headers["x-twolane-answered-by"] == "fast=0-2,5; quality=3-4,6"
    assert headers["x-twolane-attempts"] == "fast=low_confidence,quality=ok"
    probabilities = [{"value": value, "probability": p} for value, p in (("red", 0.0), (True, 1.0), ("true", 0.0))]
    assert told["answers"] == [
        *(sure(0.9), sure(0.1), sure(0.95), sure(0.0, "q3")),
        {"type": "choice", "name": None, "choice": True, "confidence": 1.0, "probabilities": probabilities},
        *(score, sure(1.0, "q6")),
    ]
    assert (told["usage"]["input_tokens"], told["usage"]["output_tokens"]) == (13, 4)
    (sent,) = stack.quality.bodies
    assert sent.keys() == {"model", "messages", "response_format"}
    schema = sent["response_format"]["json_schema"]["schema"]
    assert {name: each["enum"] for name, each in schema["properties"].items()} == {
        "1": ["yes", "no"],
        "2": ["1", "2", "3"],
        "3": ["yes", "no"],
    }
    prompt = sent["messages"][-1]["content"]
    assert prompt.endswith("\n\nText: A red lamp")
    assert "\n1. Is it 3?\n" in prompt
    assert "Is it 0?" not in prompt
    assert "3 (true: the word)" in prompt


async def test_a_quality_lane_with_decisions_is_asked_for_decisions(deciding: Stack) -> None:
    questions = [predicate(0), predicate(1), predicate(2)]
    fast = decided(sure(0.5), sure(0.9), REFUSAL)
    status, headers, told = await deciding.ask(*questions, fast=fast, quality=decided(sure(0.7), sure(0.2)))
    assert (status, headers["x-twolane-answered-by"]) == (200, "quality=0,2; fast=1")
    assert told["answers"] == [sure(0.7), sure(0.9), sure(0.2)]
    (sent,) = deciding.quality.bodies
    assert [each["name"] for each in sent["questions"]] == ["q0", "q2"]
    assert deciding.quality.paths == [PATH]


@pytest.mark.parametrize("quality", [{"status": 500, "error": {"message": "x"}}, completion("no"), completion("{}")])
async def test_doubtful_answers_are_served_if_no_other_target_answers(stack: Stack, quality: Any) -> None:
    fast = decided(sure(0.5), sure(0.9))
    status, headers, told = await stack.ask(predicate(0), predicate(1), fast=fast, quality=quality)
    assert (status, told["answers"]) == (200, fast["answers"])
    assert (headers["x-twolane-answered-by"], headers["x-twolane-target"]) == ("fast=0-1", "fast")


@pytest.mark.parametrize(
    "answers",
    [
        [sure(0.9)],
        [sure(1.9), sure(0.9)],
        [sure(0.9), {**sure(0.9), "type": "score"}],
        [sure(0.9), "yes"],
        [sure(0.9), sure(True)],
    ],
)
async def test_answers_that_do_not_fit_the_questions_fall_back_as_a_whole(stack: Stack, answers: Any) -> None:
    quality = completion('```json\n{"1": "yes", "2": "no"}\n```')
    status, headers, told = await stack.ask(predicate(0), predicate(1), fast=decided(*answers), quality=quality)
    assert status == 200, told
    assert (headers["x-twolane-attempts"], headers["x-twolane-answered-by"]) == (
        "fast=invalid_output,quality=ok",
        "quality=0-1",
    )


async def test_a_refusal_by_the_quality_lane_does_not_replace_a_doubtful_answer(stack: Stack) -> None:
    refusal = completion("")
    refusal["choices"][0]["message"] = {"role": "assistant", "content": None, "refusal": "I will not."}
    fast = decided(sure(0.5, "q0"), REFUSAL)
    _, headers, told = await stack.ask(predicate(0), predicate(1), fast=fast, quality=refusal)
    assert told["answers"] == [sure(0.5, "q0"), REFUSAL]
    assert headers["x-twolane-answered-by"] == "fast=0-1"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": True}, "stream"),
        ({"temperature": 0}, "temperature"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
        ({"questions": [predicate(0, min_confidence=2)]}, "questions[0].min_confidence"),
        ({"model": 5}, "model"),
    ],
)
async def test_errors_name_the_field_and_no_target_is_called(stack: Stack, fields: dict[str, Any], param: str) -> None:
    status, _, told = await stack.ask(predicate(0), fast={}, **fields)
    assert (status, told["error"]["param"]) == (400, param)
    assert not stack.fast.bodies


async def test_openais_client_sets_a_confidence_and_reads_the_merged_answer(stack: Stack) -> None:
    stack.answers = {"fast": decided(sure(0.9), sure(0.9)), "quality": completion('{"1": "no"}')}
    async with openai.AsyncOpenAI(base_url=f"{stack.gateway.url}/v1", api_key="k", max_retries=0) as client:
        decision = await client.decisions.create(
            model="auto",
            input=[{"role": "user", "content": [{"type": "input_json", "data": {"colour": "red"}}]}],
            questions=[predicate(0), predicate(1)],  # type: ignore[list-item]
            extra_body={"questions": [predicate(0), predicate(1, min_confidence=0.95)]},
        )
    assert [answer.model_dump()["probability"] for answer in decision.answers] == [0.9, 0.0]


@pytest.mark.slow
async def test_the_largest_request_is_taken(stack: Stack) -> None:
    """400 questions with 255 choices each."""
    question = {**CHOICE, "choices": [{"value": str(number)} for number in range(255)]}
    status, _, told = await stack.ask(*[question] * 400, fast=decided(*[REFUSAL] * 400), quality=completion("none"))
    assert (status, len(told["answers"])) == (200, 400)
