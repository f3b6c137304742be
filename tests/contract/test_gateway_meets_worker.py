"""Gateway and worker together: the real gateway in front of the real worker with the toy model, over sockets."""

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import orjson
import pytest
from aiohttp import web

from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.confidence import ConfidenceWeights
from diffusion_worker.types.requests import DecodingMode
from tests.gateway.serving import STOP, RealGateway, chunk, completion, fake_server, real_gateway, until_known
from tests.worker.serving import listening, toy_model

pytestmark = pytest.mark.anyio

POLICY = """
version: 1
targets:
  fast: {kind: worker, url: "%s", model: diffusion, location: in_cluster}
  careful: {kind: worker, url: "%s", model: "diffusion:autoregressive", location: in_cluster}
  quality: {kind: openai, engine: openai, url: "%s", model: m, location: external}
routes:
  - {name: edits, when: {task: edit}, use: fast, min_confidence: 0.01, fall_back: [quality]}
  - {name: constrained, when: {task: structured}, use: fast, validate: {schema: request}, fall_back: [careful, quality]}
  - {name: default, use: fast, fall_back: [quality]}
"""
ADDENDS = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["x"],
    "additionalProperties": False,
}
SSE = "text/event-stream"
NUMBER = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}


class Both:
    """A gateway, the worker behind it, and a second server to fall back to."""

    def __init__(self, gateway: RealGateway, worker: Any, quality: Any) -> None:
        self.gateway = gateway
        self.worker = worker
        self.quality = quality

    async def ask(self, text: str = "hello", headers: dict[str, str] | None = None, **fields: Any) -> Any:
        body = {"model": "auto", "messages": [{"role": "user", "content": text}], "max_tokens": 30, **fields}
        return await self.gateway.ask(body, **(headers or {}))


async def both(net: ToyModel, tmp_path: Any, **settings: Any) -> AsyncIterator[Both]:
    async with listening(net, **settings) as worker, fake_server() as quality:
        url = str(worker.client.base_url).rstrip("/")
        async with real_gateway(tmp_path, POLICY % (url, url, quality.url)) as gateway:
            await until_known(gateway, "fast")
            yield Both(gateway, worker, quality)


@pytest.fixture
async def pair(tmp_path: Any) -> AsyncIterator[Both]:
    """The toy model repeats the user's text."""
    async for made in both(toy_model(), tmp_path):
        yield made


async def test_the_worker_is_discovered_with_what_it_can_do(pair: Both) -> None:
    async with pair.gateway.client.get(f"{pair.gateway.url}/v1/models") as response:
        listed = {entry["id"]: entry["twolane"] for entry in (await response.json())["data"]}
    assert listed["fast"]["capabilities"]["prediction"] == "anchored"
    assert "prediction" not in listed["careful"]["capabilities"]
    assert listed["fast"]["capabilities"]["stream"] is True
    for name in ("fast", "careful"):
        words = listed[name]["capabilities"]
        assert (words["tools"], words["tool_choice"], words["json_schema"]) == ("guaranteed", True, "guaranteed")


async def test_an_answer_of_the_worker_comes_through_with_its_confidence(pair: Both) -> None:
    status, headers, body = await pair.ask("fix the bug", prediction={"type": "content", "content": "fix teh bug"})
    assert status == 200
    assert body["choices"][0]["message"]["content"] == "fix the bug"
    assert headers["x-twolane-attempts"] == "fast=ok"
    assert body["usage"]["diffusion"]["confidence"] > 0.01


async def test_a_doubtful_question_of_a_decision_goes_on_as_a_chat(tmp_path: Any) -> None:
    """The toy model writes the first answer only; its autoregressive mode has no decisions, and chooses by schema."""
    questions = [
        {"type": "predicate", "instructions": "Is it red?"},
        {"type": "predicate", "instructions": "Is it large?", "min_confidence": 0.9},
    ]
    body = {"model": "auto", "input": "A red lamp", "questions": questions}
    async for pair in both(toy_model(answer="1: yes\n"), tmp_path):
        status, headers, told = await pair.gateway.ask(body, path="/v1/decisions")
        assert (status, headers["x-twolane-answered-by"]) == (200, "fast=0; careful=1"), told
        first, second = told["answers"]
        assert first["probability"] > 0.9
        assert second["probability"] in (0.0, 1.0)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_cannot_reach_the_minimum_ends_at_the_worker_and_the_next_target_answers(
    tmp_path: Any, stream: bool
) -> None:
    net = toy_model()
    weights = ConfidenceWeights(intercept=-10.0)
    net.info = replace(net.info, confidence=dict.fromkeys(DecodingMode, weights))
    async for pair in both(net, tmp_path):
        before = net.passes
        status, headers, _ = await pair.ask("word " * 100, metadata={"task": "edit"}, max_tokens=500, stream=stream)
        assert (status, headers["x-twolane-attempts"]) == (200, "fast=low_confidence,quality=ok")
        assert net.passes - before <= 3  # the prompt, and a step of the first canvas


async def test_a_gap_is_filled_by_the_worker_whatever_marks_it(tmp_path: Any) -> None:
    """With a suffix or with the markers of a family of code models; the confidence comes with the answer."""
    async for pair in both(toy_model(answer="a + b"), tmp_path):
        before, after = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))"
        marked = {"prompt": f"<fim_prefix>{before}<fim_suffix>{after}<fim_middle>", "stop": ["<fim_prefix>"] * 14}
        for path, fields in (
            ("/v1/completions", {"prompt": before, "suffix": after}),
            ("/v1/completions", marked),
            ("/v1/fim/completions", {"prompt": before, "suffix": after, "random_seed": 1}),
        ):
            status, headers, told = await pair.gateway.ask({"model": "auto", "max_tokens": 40, **fields}, path=path)
            assert (status, headers["x-twolane-attempts"]) == (200, "fast=ok"), told
            assert told["choices"][0]["text"] == "a + b"
            assert told["usage"]["diffusion"]["confidence"] > 0.01


async def test_a_completion_has_the_format_that_it_asks_for(pair: Both) -> None:
    body = {"model": "auto", "prompt": "7", "max_tokens": 20, "response_format": NUMBER}
    status, headers, told = await pair.gateway.ask(body, path="/v1/completions")
    assert (status, headers["x-twolane-attempts"], headers["x-twolane-schema"]) == (200, "fast=ok", "valid"), told
    assert told["choices"][0]["text"] == "7"


async def test_a_completion_starts_from_a_prediction(pair: Both) -> None:
    body = {"model": "auto", "prompt": "x = 1", "max_tokens": 20, "prediction": {"type": "content", "content": "x = 1"}}
    _, headers, told = await pair.gateway.ask(body, path="/v1/completions")
    assert (headers["x-twolane-target"], told["choices"][0]["text"]) == ("fast", "x = 1")
    assert told["usage"]["completion_tokens_details"]["accepted_prediction_tokens"] > 0


async def test_prompts_are_scored_through_the_gateway_as_by_the_worker(pair: Both) -> None:
    """A harness sends several prompts of token ids; one without log-probabilities is skipped by name."""
    asked = {"prompt": [[70, 71, 195, 169], [72, 73, 74]], "echo": True, "logprobs": 1, "max_tokens": 1, "seed": 1234}
    status, _, told = await pair.gateway.ask({"model": "careful", **asked}, path="/v1/completions")
    assert status == 200, told
    for choice, prompt in zip(told["choices"], asked["prompt"], strict=True):  # type: ignore[call-overload]
        body = {**asked, "model": "diffusion:autoregressive", "prompt": prompt}
        [own] = (await pair.worker.client.post("/v1/completions", json=body)).json()["choices"]
        assert (choice["text"], choice["logprobs"]) == (own["text"], own["logprobs"])
        assert choice["logprobs"]["token_logprobs"][0] is None
        assert len(choice["logprobs"]["tokens"]) == len(prompt) + 1
    status, headers, told = await pair.gateway.ask({"model": "fast", **asked}, path="/v1/completions")
    assert (status, told["error"]["param"], headers["x-twolane-attempts"]) == (400, "logprobs", "fast=unsupported")


@pytest.mark.parametrize("prompt", [["ab", "cd"], [[20, 21], [22, 23]]])
async def test_the_worker_completes_several_prompts_one_by_one(pair: Both, prompt: Any) -> None:
    """The toy model repeats them."""
    status, headers, told = await pair.gateway.ask(
        {"model": "auto", "prompt": prompt, "max_tokens": 20}, path="/v1/completions"
    )
    assert (status, headers["x-twolane-attempts"]) == (200, "fast=ok"), told
    texts = [choice["text"] for choice in told["choices"]]
    assert len(set(texts)) == 2
    assert all(texts)


async def test_messages_of_the_worker_are_counted_as_they_are_billed(pair: Both) -> None:
    """The count before the request is the usage after it, with instructions and tools."""
    tool = {"name": "look", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
    asked = {
        "model": "auto",
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "fix the bug"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "look", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "sun"}]},
        ],
        "tools": [tool],
        "tool_choice": {"type": "none"},
    }
    ask, path = partial(pair.gateway.ask, x_twolane_task="edit"), "/v1/messages"
    _, counted_headers, counted = await ask(asked, path=f"{path}/count_tokens")
    status, headers, told = await ask({**asked, "max_tokens": 20}, path=path)
    assert (status, headers["x-twolane-attempts"]) == (200, "fast=ok"), told
    assert (counted_headers["x-twolane-token-count"], counted_headers["x-twolane-target"]) == ("exact", "fast")
    assert counted["input_tokens"] == told["usage"]["input_tokens"]
    assert told["content"][0]["type"] == "text"


async def test_an_edit_keeps_the_lines_that_do_not_change(tmp_path: Any) -> None:
    """The worker starts from the code, so that a model that agrees with it needs few steps."""
    code = "".join(f"value_{number} = {number}\n" for number in range(12)).rstrip()
    edited = code.replace("value_5 = 5", "value_5 = 6")
    text = f"<|original_code|>\n{code}\n<|/original_code|>\n<|update_snippet|>\nvalue_5 = 6\n<|/update_snippet|>"
    async for pair in both(toy_model(answer=edited), tmp_path):
        body = {"model": "auto", "messages": [{"role": "user", "content": text}], "max_tokens": 400}
        status, headers, told = await pair.gateway.ask(body, path="/v1/apply/completions")
        assert (status, headers["x-twolane-attempts"]) == (200, "fast=ok"), told
        assert told["choices"][0]["message"]["content"] == edited
        details = told["usage"]["completion_tokens_details"]
        assert details["accepted_prediction_tokens"] > 10 * details["rejected_prediction_tokens"]


async def test_a_held_stream_of_the_worker_comes_through(pair: Both) -> None:
    status, headers, raw = await pair.ask("7", stream=True, response_format=NUMBER)
    assert status == 200
    assert headers["x-twolane-schema"] == "valid"
    events = [event.removeprefix(b"data: ") for event in raw.strip().split(b"\n\n")]
    assert events.pop() == b"[DONE]"
    chunks = [orjson.loads(event) for event in events]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "7"
    assert all(chunk["choices"] for chunk in chunks)  # only the gateway requested the usage


async def test_an_answer_that_its_stop_string_cut_is_served_as_truncated(pair: Both) -> None:
    """The worker follows the schema; every other target would be cut at the same place."""
    status, headers, _ = await pair.ask("7", response_format=NUMBER, stop=["7"])
    assert (status, headers["x-twolane-attempts"], headers["x-twolane-schema"]) == (200, "fast=ok", "truncated")


async def test_integers_beyond_64_bits_keep_their_digits_through_both_programs(pair: Both) -> None:
    number = 123456789012345678901234567890
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": number}}}
    status, headers, body = await pair.ask("7", response_format=schema, max_tokens=80)
    assert (status, headers["x-twolane-schema"]) == (200, "valid")
    assert body["choices"][0]["message"]["content"] == str(number)


@pytest.mark.parametrize(
    "form",
    [
        {"guided_json": {"type": "integer"}},
        {"json_schema": {"type": "integer"}, "extra_body": {}},
        {"regex": "[0-9]"},
        {"guided_choice": ["5", "7"]},
        {"format": {"type": "integer"}},
    ],
)
async def test_the_worker_receives_a_form_in_its_own_spelling(pair: Both, form: dict[str, Any]) -> None:
    status, headers, body = await pair.ask("7", **form)
    assert (status, headers["x-twolane-attempts"], headers["x-twolane-schema"]) == (200, "fast=ok", "valid")
    assert body["choices"][0]["message"]["content"] == "7"


async def test_only_allowed_tools_are_called(pair: Both) -> None:
    tools = [{"type": "function", "function": {"name": name, "parameters": ADDENDS}} for name in ("add", "take")]
    named = {"type": "function", "function": {"name": "take"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    status, headers, body = await pair.ask(
        "seven", {"x_twolane_task": "structured"}, tools=tools, tool_choice=allowed, max_tokens=150
    )
    assert (status, headers["x-twolane-attempts"]) == (200, "fast=ok")
    assert {call["function"]["name"] for call in body["choices"][0]["message"]["tool_calls"]} == {"take"}


async def test_the_worker_keeps_to_a_schema_whatever_its_net_would_say(pair: Both) -> None:
    status, headers, body = await pair.ask("seven", response_format=NUMBER)
    assert (status, headers["x-twolane-attempts"]) == (200, "fast=ok")
    assert isinstance(orjson.loads(body["choices"][0]["message"]["content"]), int)


async def test_a_schema_that_the_worker_cannot_keep_falls_back(pair: Both) -> None:
    old = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer", "divisibleBy": 3}}}
    _, headers, _ = await pair.ask("aa", response_format=old)
    assert headers["x-twolane-attempts"].startswith("fast=unsupported,")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_is_required_is_made_by_the_fast_lane(pair: Both, stream: bool) -> None:
    """For any model output; the gateway validates the arguments before it sends them."""
    tools = [{"type": "function", "function": {"name": "add", "parameters": ADDENDS}}]
    status, headers, body = await pair.ask(
        "seven", {"x_twolane_task": "structured"}, tools=tools, tool_choice="required", stream=stream, max_tokens=150
    )
    assert (status, headers["x-twolane-attempts"], headers["x-twolane-schema"]) == (200, "fast=ok", "valid")
    if stream:
        deltas = [
            orjson.loads(event.removeprefix(b"data: "))["choices"][0]["delta"]
            for event in body.strip().split(b"\n\n")[:-1]
        ]
        calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    else:
        calls = body["choices"][0]["message"]["tool_calls"]
    assert isinstance(orjson.loads(calls[0]["function"]["arguments"])["x"], int)


async def test_tools_that_the_worker_cannot_keep_to_fall_back(pair: Both) -> None:
    """The last lane omits the required call, which is an invalid output."""
    old = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"divisibleBy": 3}}}}}
    _, headers, _ = await pair.ask("aa", {"x_twolane_task": "structured"}, tools=[old], tool_choice="required")
    assert headers["x-twolane-attempts"] == "fast=unsupported,careful=unsupported,quality=invalid_output"


async def test_probabilities_of_labels_come_through_and_of_tokens_from_the_other_modes(pair: Both) -> None:
    """In diffusion mode the worker supports them if the answer is one of a few; otherwise another mode answers."""
    task = {"x_twolane_task": "structured"}
    few = {"choice": ["yes", "no"]}
    _, headers, body = await pair.ask("no", task, structured_outputs=few, logprobs=True, top_logprobs=2)
    assert headers["x-twolane-attempts"] == "fast=ok"
    [entry] = body["choices"][0]["logprobs"]["content"]
    assert {top["token"] for top in entry["top_logprobs"]} == {"yes", "no"}
    _, headers, body = await pair.ask("no", task, structured_outputs={"regex": "a|b"}, logprobs=True)
    assert headers["x-twolane-attempts"] == "fast=unsupported,careful=ok"
    choice = body["choices"][0]
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == [choice["message"]["content"]]


async def test_an_answer_that_cannot_fit_falls_back(pair: Both) -> None:
    """Another model may have longer tokens."""
    long = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": "x" * 60}}}
    _, headers, _ = await pair.ask("aa", response_format=long)
    assert headers["x-twolane-attempts"].startswith("fast=unsupported,")


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_ordinary_clients_send_keeps_the_fast_lane(pair: Both, private: bool, stream: bool) -> None:
    """Sampling parameters are honoured; hints, identities and values without effect are left out."""
    part = {"type": "text", "text": "fix the bug", "cache_control": {"type": "ephemeral"}}
    status, headers, _ = await pair.ask(
        messages=[{"role": "user", "name": "anna", "content": [part]}],
        headers={"x_twolane_task": "edit", **({"x_twolane_private": "true"} if private else {})},
        prediction={"type": "content", "content": "fix teh bug"},
        stream=stream,
        temperature=0.7,
        top_p=0.95,
        top_k=40,
        min_p=0,
        seed=3,
        logit_bias={},
        presence_penalty=0.1,
        frequency_penalty=0.1,
        repetition_penalty=1,
        reasoning_effort="low",
        verbosity="low",
        keep_alive="5m",
        store=True,
        n=1,
        user="u",
        safety_identifier="s",
        prompt_cache_key="k",
        service_tier="auto",
        metadata={"team": "a"},
        logprobs=False,
        top_logprobs=0,
        best_of=1,
        modalities=["text"],
        stop=None,
        think=False,
        future=None,
        future_list=[],
        future_object={},
        extra_body={},
        guided_json=None,
    )
    assert (status, headers["x-twolane-attempts"]) == (200, "fast=ok")
    assert "x-twolane-ignored" not in headers
    assert pair.quality.bodies == []


async def test_several_choices_come_from_several_calls_to_the_worker(pair: Both) -> None:
    status, headers, body = await pair.ask(n=3, seed=1)
    assert (status, headers["x-twolane-attempts"]) == (200, "fast=ok")
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in body["choices"]} == {"hello"}
    [alone] = [(await pair.ask(seed=1))[2]]
    assert body["usage"]["completion_tokens"] == 3 * alone["usage"]["completion_tokens"]
    assert body["usage"]["diffusion"]["denoising_steps"] >= 3
    _, _, raw = await pair.ask(n=2, stream=True, stream_options={"include_usage": True})
    events = [event.removeprefix(b"data: ") for event in raw.strip().split(b"\n\n")]
    assert events.pop() == b"[DONE]"
    chunks = [orjson.loads(event) for event in events]
    texts = {0: "", 1: ""}
    for choice in chain.from_iterable(each["choices"] for each in chunks):
        texts[choice["index"]] += choice["delta"].get("content") or ""
    assert texts == {0: "hello", 1: "hello"}
    [usage] = [each["usage"] for each in chunks if each.get("usage")]
    assert usage["completion_tokens"] == 2 * alone["usage"]["completion_tokens"]


@pytest.mark.parametrize("field", [{"thinking": {"type": "enabled"}}, {"future": 1}, {"reasoning_effort": "high"}])
async def test_what_the_worker_cannot_honour_falls_back_without_a_call(pair: Both, field: Any) -> None:
    _, headers, _ = await pair.ask(**field)
    assert headers["x-twolane-attempts"] == "fast=unsupported,quality=ok"
    assert field.items() <= pair.quality.bodies[-1].items()
    status, headers, body = await pair.ask(**field, headers={"x_twolane_private": "true"})
    assert (status, body["error"]["code"]) == (400, "unsupported")
    assert next(iter(field)) in body["error"]["message"]


async def test_a_prompt_too_long_for_the_worker_falls_back(pair: Both) -> None:
    _, headers, _ = await pair.ask("x" * 100_000)
    assert headers["x-twolane-attempts"] == "fast=context_length_exceeded,quality=ok"


async def test_metadata_of_ours_does_not_trouble_the_worker(pair: Both) -> None:
    status, headers, _ = await pair.ask(metadata={"task": "edit", "private": "true"})
    assert (status, headers["x-twolane-target"]) == (200, "fast")


async def test_the_deadline_reaches_the_worker_which_answers_in_time_with_what_it_has(pair: Both) -> None:
    status, headers, _ = await pair.ask(headers={"x_twolane_deadline_ms": "60000"})
    assert (status, headers["x-twolane-attempts"]) == (200, "fast=ok")


async def test_a_worker_that_leaves_is_passed_over(pair: Both) -> None:
    await pair.worker.engine.drain(0.1)
    _, headers, _ = await pair.ask()
    assert headers["x-twolane-attempts"] == "fast=not_resident,quality=ok"
    _, headers, _ = await pair.ask()
    assert headers["x-twolane-attempts"] == "fast=not_resident,quality=ok"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_the_worker_cannot_mend_falls_back(
    pair: Both, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker reports its own error, and no part of the answer was sent, streams included."""

    async def never(_constraint: object, _text: str, _owner: str) -> str:
        return "$: not good enough"

    async def answers(_request: object, _body: object) -> web.Response:
        whole = orjson.dumps(completion("[1,2]"))
        parts = chunk("[1,2]") + STOP + b"data: [DONE]\n\n"
        return web.Response(body=parts if stream else whole, content_type=SSE if stream else "application/json")

    monkeypatch.setattr(pair.worker.worker.serving_state.constraint_service._pool, "validate", never)
    pair.quality.answer = answers
    distinct = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
    status, headers, body = await pair.ask(
        "[1,1]",
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": distinct}},
        stream=stream,
    )
    assert headers["x-twolane-attempts"] == "fast=invalid_output,careful=invalid_output,quality=ok"
    assert (status, headers["x-twolane-schema"]) == (200, "valid")
    assert "[1,2]" in (body.decode() if stream else body["choices"][0]["message"]["content"])
