"""Label probabilities over HTTP: two passes, complete labels, OpenAI's form; otherwise refused."""

import json
import math
from typing import Any

import pytest

from diffusion_worker.types.requests import DenoisingParams
from tests.worker.constraint_service.test_service import noisy_net
from tests.worker.released import released_net, released_words
from tests.worker.serving import MODEL, READ, VERIFIED, events, serving, toy_model

pytestmark = pytest.mark.anyio

CHOICE = {"choice": ["yes", "no", "maybe so"]}
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "sure": {"type": "boolean"}},
    "required": ["mood", "sure"],
    "additionalProperties": False,
}


def formatted(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}


async def test_a_choice_takes_two_passes_and_returns_probabilities() -> None:
    """They sum to 1, the most likely label is the answer, and the confidence is its probability."""
    async with serving(noisy_net()) as served:
        fields = {"structured_outputs": CHOICE, "logprobs": True, "top_logprobs": 3}
        body = (await served.ask(**fields)).json()
    [choice] = body["choices"]
    [entry] = choice["logprobs"]["content"]
    tops = entry["top_logprobs"]
    assert sum(math.exp(top["logprob"]) for top in tops) == pytest.approx(1.0)
    assert sorted(top["token"] for top in tops) == sorted(CHOICE["choice"])
    assert [top["logprob"] for top in tops] == sorted((top["logprob"] for top in tops), reverse=True)
    assert (choice["message"]["content"], choice["finish_reason"]) == (tops[0]["token"], "stop")
    assert {**entry, "top_logprobs": []} == {**tops[0], "top_logprobs": []}
    assert bytes(entry["bytes"]).decode() == entry["token"]
    usage = body["usage"]
    assert usage["diffusion"]["denoising_steps"] == 2
    assert usage["diffusion"]["confidence"] == pytest.approx(math.exp(entry["logprob"]), abs=1e-6)
    assert usage["completion_tokens"] == len(entry["bytes"]) + 1


async def test_a_schema_of_enums_returns_probabilities_and_streams() -> None:
    """The probability of a confident model is high."""
    denoising = DenoisingParams(canvas_length=40, steps=16)
    async with serving(toy_model('{"mood": "bad", "sure": true}', denoising=denoising)) as served:
        fields = {"logprobs": True, "stream": True}
        for schema_fields in ({"response_format": formatted(SCHEMA)}, {"structured_outputs": {"json": SCHEMA}}):
            response = await served.ask(**fields, **schema_fields)
            chunks = [json.loads(each)["choices"][0] for each in events(response.text)[:-1]]
            [chunk_with_logprobs] = [chunk for chunk in chunks if chunk["logprobs"]]
            assert json.loads(chunk_with_logprobs["delta"]["content"]) == {"mood": "bad", "sure": True}
            [entry] = chunk_with_logprobs["logprobs"]["content"]
            assert entry["token"] == chunk_with_logprobs["delta"]["content"]
            assert entry["top_logprobs"] == []
            assert math.exp(entry["logprob"]) > 0.9
            assert chunks[-1]["finish_reason"] == "stop"


async def test_labels_share_a_batch_with_other_requests() -> None:
    """With a thought channel, the label follows the empty thought."""
    async with serving(released_net("<|channel>thought\n<channel|>no"), released_words()) as served:
        labelled = (await served.ask(structured_outputs=CHOICE, logprobs=True)).json()["choices"][0]
        plain = (await served.ask()).json()["choices"][0]
    assert plain["message"]["content"] == "no"
    assert labelled["message"]["content"] in CHOICE["choice"]
    assert labelled["message"]["content"] == labelled["logprobs"]["content"][0]["token"]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({}, "unsupported_parameter", "logprobs"),
        ({"structured_outputs": {"regex": "a|b"}}, "unsupported_parameter", "logprobs"),
        ({"response_format": formatted({"type": "string"})}, "unsupported_parameter", "logprobs"),
        (
            {"structured_outputs": CHOICE, "prediction": {"type": "content", "content": "no"}},
            "unsupported_parameter",
            "logprobs",
        ),
        (
            {"structured_outputs": CHOICE, "tools": [{"type": "function", "function": {"name": "f"}}]},
            "unsupported_parameter",
            "logprobs",
        ),
        ({"structured_outputs": CHOICE, "max_tokens": 5}, "answer_does_not_fit", "structured_outputs.choice"),
        ({"structured_outputs": {"choice": ["x" * 16]}}, "answer_does_not_fit", "structured_outputs.choice"),
        ({"structured_outputs": CHOICE, "logprobs": 1}, "invalid_type", "logprobs"),
        ({"structured_outputs": CHOICE, "top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"structured_outputs": CHOICE, "logprobs": False, "top_logprobs": 2}, "invalid_value", "top_logprobs"),
    ],
)
async def test_logprobs_are_refused_where_unsupported(fields: dict[str, Any], code: str, param: str) -> None:
    """By name, before anything is computed."""
    async with serving(toy_model()) as served:
        refused = await served.ask(**{"logprobs": True, **fields})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, code, param)


async def test_every_decoding_mode_has_the_logprobs_capability() -> None:
    """Of labels in diffusion mode, of tokens in the others."""
    async with serving(toy_model()) as served:
        for model in (MODEL, VERIFIED, READ):
            listed = (await served.client.get(f"/v1/models/{model}")).json()
            assert listed["twolane"]["capabilities"]["logprobs"] is True


@pytest.mark.parametrize("model", [READ, VERIFIED])
@pytest.mark.parametrize("fields", [{}, {"structured_outputs": {"regex": "größer|kleiner"}}, {"stop": ["zz"]}])
async def test_every_token_of_the_text_has_its_log_probability(model: str, fields: dict[str, Any]) -> None:
    """Whole and streamed; tokens are bytes here, so that a character may take two of them."""
    text = "größer"
    async with serving(toy_model(answer=text, confidence=0.9)) as served:
        request = {"model": model, "logprobs": True, "top_logprobs": 2, **fields}
        whole = (await served.ask("x", **request)).json()["choices"][0]
        streamed = await served.ask("x", stream=True, **request)
    assert whole["message"]["content"] == text
    entries = whole["logprobs"]["content"]
    assert bytes(byte for entry in entries for byte in entry["bytes"]) == text.encode()
    for entry in entries:
        assert math.exp(entry["logprob"]) == pytest.approx(0.9)
        best, second = entry["top_logprobs"]
        assert (best["bytes"], best["logprob"]) == (entry["bytes"], entry["logprob"])
        assert second["logprob"] < best["logprob"]
    chunks = [json.loads(data)["choices"][0] for data in events(streamed.text)[:-1]]
    assert [entry for chunk in chunks if chunk["logprobs"] for entry in chunk["logprobs"]["content"]] == entries


async def test_without_a_number_only_the_tokens_themselves_are_reported() -> None:
    async with serving(toy_model(answer="ab")) as served:
        found = (await served.ask("x", model=VERIFIED, logprobs=True)).json()["choices"][0]
        plain = (await served.ask("x", model=VERIFIED)).json()["choices"][0]
    assert [(entry["token"], entry["top_logprobs"]) for entry in found["logprobs"]["content"]] == [("a", []), ("b", [])]
    assert plain["logprobs"] is None


async def test_thoughts_and_tool_calls_have_lists_of_their_own() -> None:
    """Together with the text they are all tokens of the answer, whole and streamed."""
    call = "<|tool_call>call:f{a:1}<tool_call|>"
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    answer = f"<|channel>thought\nhm<channel|>ok{call}"
    async with serving(released_net(answer), released_words()) as served:
        request = {"model": READ, "logprobs": True, "tools": tools, "tool_choice": "auto", "max_tokens": 60}
        whole = (await served.ask("x", **request)).json()["choices"][0]
        streamed = await served.ask("x", stream=True, **request)
    assert whole["message"]["tool_calls"][0]["function"]["name"] == "f"
    lists = {name: "".join(each["token"] for each in listed) for name, listed in whole["logprobs"].items() if listed}
    assert lists == {
        "content": whole["message"]["content"],
        "reasoning_content": whole["message"]["reasoning_content"],
        "tool_calls": call,
    }
    chunks = [json.loads(data)["choices"][0] for data in events(streamed.text)[:-1]]
    for name, listed in whole["logprobs"].items():
        parts = [each for chunk in chunks for each in (chunk["logprobs"] or {}).get(name) or ()]
        assert parts == (listed or [])
