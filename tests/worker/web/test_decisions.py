"""`/v1/decisions`: questions answered from the holes of canvases, in at most two passes each."""

import asyncio
import threading
from typing import Any

import openai
import pytest

from diffusion_worker.constraints.inference.template import FREE
from diffusion_worker.web import decisions
from diffusion_worker.web.decisions import prepare
from diffusion_worker.web.requests.decision_canvases import lay_out
from tests.worker.serving import MODEL, READ, Served, serving, toy_model, toy_words, until
from twolane.process import exact_json
from twolane.process.decisions.request import parse_decisions
from twolane.process.http_body import ClientDisconnected

pytestmark = pytest.mark.anyio
PATH = "/v1/decisions"
PREDICATE = {"type": "predicate", "instructions": "Is it red?"}
COLOURS = [{"value": value} for value in ("red", "reddish", "rose", "black", True)]
CHOICE = {"type": "choice", "instructions": "Which colour?", "choices": COLOURS, "name": "colour"}
IMAGE = {"type": "input_image", "image_url": "x"}
SCORE = {"type": "score", "instructions": "How large?", "levels": [{"label": "low"}, {"label": "high"}]}


async def decide(served: Served, *questions: Any, **fields: Any) -> Any:
    return await served.client.post(
        PATH, json={"model": MODEL, "input": "A red lamp", "questions": list(questions), **fields}
    )


def shares_of(answer: dict[str, Any]) -> list[float]:
    if answer["type"] == "predicate":
        return [answer["probability"], 1 - answer["probability"]]
    return [each["probability"] for each in answer["probabilities"]]


async def test_openais_client_reads_the_answer() -> None:
    """The toy model writes its text on every canvas: its line answers the first question."""
    async with serving(toy_model(answer="1: yes\n")) as served:
        client = openai.AsyncOpenAI(base_url=f"{served.client.base_url}/v1", api_key="k", http_client=served.client)
        decision = await client.decisions.create(model=MODEL, input="A red lamp", questions=[PREDICATE])  # type: ignore[list-item]
    [answer] = decision.answers
    assert answer.type == "predicate"
    assert answer.probability > 0.99
    assert decision.usage.total_tokens == decision.usage.input_tokens + decision.usage.output_tokens


async def test_labels_of_many_tokens_are_told_apart() -> None:
    """`reddish` begins as `red` does; the second pass decides between them."""
    async with serving(toy_model(answer="1: reddish\n")) as served:
        answered = (await decide(served, CHOICE)).json()
    [answer] = answered["answers"]
    assert (answer["choice"], answer["name"]) == ("reddish", "colour")
    assert answer["confidence"] > 0.99
    assert sum(shares_of(answer)) == pytest.approx(1.0, abs=1e-6)
    assert answered["usage"]["diffusion"]["denoising_steps"] == 2


async def test_many_questions_take_several_canvases_of_at_most_two_passes() -> None:
    """All answers come back in their order, and canvases behind the first one find what they share in the cache."""
    questions = [{**[PREDICATE, CHOICE, SCORE][number % 3], "name": str(number)} for number in range(60)]
    async with serving(toy_model()) as served:
        answered = (await decide(served, *questions, input="A red lamp. " * 10)).json()
    assert [answer["name"] for answer in answered["answers"]] == [str(number) for number in range(60)]
    assert all(sum(shares_of(answer)) == pytest.approx(1.0, abs=1e-6) for answer in answered["answers"])
    usage, statistics = answered["usage"], answered["usage"]["diffusion"]
    assert statistics["denoising_steps"] <= 2 * statistics["canvases"]
    assert usage["input_tokens_details"]["cached_tokens"] > 0.8 * usage["input_tokens"]


async def test_equal_requests_get_equal_probabilities() -> None:
    """Alone or after others: the noise in the holes is the same. The model's text answers no question here, so that
    the shares depend on it."""
    async with serving(toy_model(answer="?" * 16)) as served:
        first, _, again = [
            (await decide(served, *questions)).json()["answers"]
            for questions in ((CHOICE, SCORE), (PREDICATE,), (CHOICE, SCORE))
        ]
    assert first == again


def body_of(*questions: Any, text: str = "A red lamp") -> bytes:
    return exact_json.dumps({"model": MODEL, "input": text, "questions": list(questions)})


async def test_canvases_have_a_line_for_each_question() -> None:
    """With padding behind the end; canvases of one prompt share its numbers."""
    async with serving(toy_model()) as served:
        canvases = prepare(served.worker.serving_state, body_of(PREDICATE, PREDICATE, SCORE))
    tokenizer = toy_words().tokenizer
    shown = [
        "".join("_" if token == FREE else tokenizer.decode_with_specials([token]) for token in canvas.template.ids)
        for canvas in canvases
    ]
    assert shown == ["1:_____2:_____<eos><pad>", "3:______<eos>" + "<pad>" * 7]
    assert [len(canvas.questions) for canvas in canvases] == [2, 1]
    first, second = (tokenizer.decode_with_specials(canvas.prompt_ids) for canvas in canvases)
    assert first == second
    assert "\n1. Is it red?\n2. Is it red?\n3. How large? [low < high]\n\nText: A red lamp" in first


async def test_a_text_that_is_longer_than_its_questions_comes_first() -> None:
    async with serving(toy_model()) as served:
        [canvas] = prepare(served.worker.serving_state, body_of(PREDICATE, text="A red lamp. " * 20))
    shown = toy_words().tokenizer.decode_with_specials(canvas.prompt_ids)
    assert shown.index("Text: A red lamp.") < shown.index("1. Is it red?")


async def test_labels_that_no_canvas_holds_are_numbered() -> None:
    long = [{"value": f"{letter * 20}"} for letter in "abc"]
    async with serving(toy_model(answer="1: 2\n")) as served:
        [answer] = (await decide(served, {**CHOICE, "choices": long})).json()["answers"]
    assert answer["choice"] == "b" * 20


async def test_labels_that_the_tokenizer_writes_alike_are_numbered() -> None:
    """Many tokenizers replace spaces by `▁` before they look at a text."""

    def encode(text: str) -> tuple[int, ...]:
        return tuple(map(ord, text.replace(" ", "▁")))

    choices = [{"value": value} for value in ("dark red", "dark▁red", "black")]
    request = parse_decisions({"model": MODEL, "input": "x", "questions": [{**CHOICE, "choices": choices}]})
    [canvas] = lay_out(request, toy_model().info, encode, encode)
    assert canvas.template.holes[0].labels == tuple(encode(f" {number}\n") for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("fields", "param", "status"),
    [
        ({"model": READ}, "model", 400),
        ({"model": "other"}, "model", 404),
        ({"temperature": 1}, "temperature", 400),
        ({"questions": []}, "questions", 400),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0]",
            400,
        ),
        ({"input": "long " * 1000}, "input", 400),
        ({"questions": [PREDICATE, {**PREDICATE, "instructions": "long " * 1000}]}, "questions[1]", 400),
    ],
)
async def test_errors_name_the_field(fields: dict[str, Any], param: str, status: int) -> None:
    async with serving(toy_model()) as served:
        refused = await decide(served, PREDICATE, **fields)
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)


async def test_a_deadline_that_passes_is_an_error() -> None:
    async with serving(toy_model()) as served:
        headers = {"x-twolane-deadline-ms": "0"}
        json = {"model": MODEL, "input": "x", "questions": [PREDICATE]}
        late = await served.client.post(PATH, json=json, headers=headers)
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_laying_out_counts_against_the_deadline_and_leaves_the_threads_of_others_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More requests than the loop has threads are being laid out until a chat's tokens have been counted."""
    counted = threading.Event()

    def slow(*given: Any) -> Any:
        assert counted.wait(60)
        return prepare(*given)

    monkeypatch.setattr(decisions, "prepare", slow)
    body = {"model": MODEL, "input": "x", "questions": [PREDICATE]}
    async with serving(toy_model()) as served:
        late = [
            asyncio.ensure_future(served.client.post(PATH, json=body, headers={"x-twolane-deadline-ms": "1"}))
            for _ in range(64)
        ]
        await until(lambda: any(each.name.startswith("decisions") for each in threading.enumerate()))
        chat = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
        assert (await served.client.post("/tokenize", json=chat)).status_code == 200
        counted.set()
        assert {(await each).status_code for each in late} == {504}


async def test_a_body_that_waits_to_be_laid_out_is_dropped_when_its_client_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left, laid_out = threading.Event(), list[bytes]()

    def slow(_: Any, body: bytes) -> Any:
        laid_out.append(body)
        assert left.wait(60)

    async def leave(endpoint: decisions.DecisionEndpoint) -> None:
        parts = iter([{"type": "http.request", "body": body_of(PREDICATE)}, {"type": "http.disconnect"}])

        async def receive() -> Any:
            return next(parts)

        async def send(_: Any) -> None:
            raise AssertionError("the client has left")

        with pytest.raises(ClientDisconnected):
            await endpoint({"type": "http", "path": PATH, "headers": []}, receive, send)

    monkeypatch.setattr(decisions, "prepare", slow)
    async with serving(toy_model()) as served:
        endpoint = decisions.DecisionEndpoint(served.worker.serving_state)
        await asyncio.gather(*[leave(endpoint) for _ in range(20)])
        left.set()
        endpoint._threads.shutdown()
    assert len(laid_out) <= 2
