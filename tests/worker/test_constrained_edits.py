"""Constrained edits: for any old document and any model output, the edited document satisfies its schema."""

import json
from typing import Any

import pytest

from diffusion_worker.types.requests import DenoisingParams
from tests.worker.constraint_service.test_service import schema
from tests.worker.serving import MODEL, READ, events, serving, toy_model
from tests.worker.test_constrained import ORDER, NoisyNet, is_member

pytestmark = pytest.mark.anyio
VALID = '{"item":"red lamp","count":3,"gift":false}'
OLD = {
    "valid": VALID,
    "invalid for the schema": '{"item":"","count":300,"colour":"red"}',
    "truncated": VALID[:23],
    "other white space": json.dumps(json.loads(VALID), indent=4),
    "other key order": '{"gift":false,"count":3,"item":"red lamp"}',
    "no JSON": "please send three red lamps",
    "far too long": VALID * 9,
}


def edit(old: str, **fields: Any) -> dict[str, Any]:
    return {
        "prediction": {"type": "content", "content": old},
        "response_format": schema(ORDER),
        "max_tokens": 150,
        **fields,
    }


@pytest.mark.slow
@pytest.mark.parametrize("old", OLD)
async def test_an_edited_document_is_valid_whatever_the_model_says(old: str) -> None:
    """Random logits at every pass, with any anchor, streamed or not."""
    async with serving(NoisyNet(len(old))) as served:
        encode = served.worker.serving_state.loaded()[0].tokenizer.encode_plain
        for seed, anchor in enumerate((0.0, 0.8, 1.0)):
            body = edit(OLD[old], seed=seed, diffusion={"anchor": anchor})
            whole = await served.ask(**body)
            assert whole.status_code == 200, whole.text
            choice = whole.json()["choices"][0]
            text, reason = joined((await served.ask(stream=True, **body)).text)
            assert (choice["finish_reason"], reason) == ("stop", "stop")
            assert is_member("an object", encode(choice["message"]["content"]))
            assert is_member("an object", encode(text))


def joined(streamed: str) -> tuple[str, str]:
    """Text and finish reason of a stream."""
    *chunks, done = events(streamed)
    assert done == "[DONE]"
    parts = [json.loads(chunk)["choices"][0] for chunk in chunks]
    return "".join(part["delta"].get("content") or "" for part in parts), parts[-1]["finish_reason"]


@pytest.mark.parametrize("model", [MODEL, READ])
async def test_a_stream_near_max_tokens_closes_in_time_or_is_refused(model: str) -> None:
    """`{"item":"x","count":1}` takes 22 tokens and its end."""
    async with serving(NoisyNet()) as served:
        encode = served.worker.serving_state.loaded()[0].tokenizer.encode_plain
        for room in (23, 24, 30, 41):
            fields = {"model": model, "seed": room, "stream": True, "response_format": schema(ORDER)}
            text, reason = joined((await served.ask(max_tokens=room, **fields)).text)
            assert reason == "stop"
            assert is_member("an object", encode(text))
        refused = await served.ask(max_tokens=22, **fields)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "answer_does_not_fit")
        assert served.engine.status().running == 0


async def test_a_valid_document_that_the_model_would_leave_costs_one_step() -> None:
    """A valid document is kept as without a schema, and changed where the model changes it."""
    async with serving(toy_model(VALID, denoising=DenoisingParams(canvas_length=64, steps=16))) as served:
        kept = (await served.ask(**edit(VALID))).json()
        free = (await served.ask(**edit(VALID, response_format={"type": "text"}))).json()
        changed = (await served.ask(**edit(VALID.replace("3", "4")))).json()
    for body in (kept, free, changed):
        assert body["choices"][0]["message"]["content"] == VALID
    steps = [body["usage"]["diffusion"]["denoising_steps"] for body in (kept, free)]
    assert steps == [1, 1]


@pytest.mark.parametrize("stream", [False, True])
async def test_at_any_deadline_what_arrives_is_valid(stream: bool) -> None:
    """Or fails with `deadline_exceeded` if not even the first canvas existed in time."""
    async with serving(NoisyNet()) as served:
        encode = served.worker.serving_state.loaded()[0].tokenizer.encode_plain
        await served.ask(response_format=schema(ORDER))  # compiled by now
        for ms in (0, 1, 3, 6, 10, 15, 25, 50, 5000):
            headers = {"x-twolane-deadline-ms": str(ms)}
            response = await served.ask(stream=stream, headers=headers, response_format=schema(ORDER), max_tokens=150)
            if response.status_code != 200:
                assert response.json()["error"]["code"] == "deadline_exceeded"
                continue
            if stream:
                text, reason = joined(response.text)
            else:
                choice = response.json()["choices"][0]
                text, reason = choice["message"]["content"], choice["finish_reason"]
            assert reason == "stop"
            assert is_member("an object", encode(text))
        assert response.status_code == 200, "the last deadline was far away"
