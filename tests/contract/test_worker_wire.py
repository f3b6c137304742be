"""The worker's interface for gateway, dashboards and probes: health, models, usage and errors, field by field."""

import json
from typing import Any

import pytest

from diffusion_worker.types.requests import DecodingMode
from diffusion_worker.types.status import Residency
from gateway.enums import Decoding
from tests.worker.pacing import held
from tests.worker.serving import MODEL, READ, VERIFIED, events, serving, toy_model, until

pytestmark = pytest.mark.anyio
STATES = {"cold", "loading", "ready", "degraded", "evicting", "failed", "draining"}
WORDS = set(
    "chat completions suffix prediction json_schema json_object regex choice template tools tool_choice seed "
    "temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty reasoning_effort logprobs "
    "prompt_logprobs "
    "logit_bias stop n stream images embeddings decisions".split()
)


def shape(value: Any) -> Any:
    """Names and JSON types."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else type(value).__name__


async def test_health_has_its_fields_and_no_others() -> None:
    """`predicted_wait_ms` is null until a step has been measured."""
    async with serving(toy_model(), max_num_seqs=5) as served:
        before = await served.client.get("/health")
        await served.ask()
        after = await served.client.get("/health")
    assert before.status_code == 200
    assert before.headers["content-type"] == "application/json"
    assert shape(before.json()) == {
        "state": "str",
        "model": "str",
        "running": "int",
        "waiting": "int",
        "max_num_seqs": "int",
        "predicted_wait_ms": "NoneType",
        "memory": {"used_bytes": "int", "limit_bytes": "int"},
        "version": "str",
    }
    assert (before.json()["state"], before.json()["model"], before.json()["max_num_seqs"]) == ("ready", MODEL, 5)
    assert isinstance(after.json()["predicted_wait_ms"], int)


def test_states_are_the_closed_set() -> None:
    """The states that a gateway knows."""
    assert {state.value for state in Residency} == STATES


async def test_a_worker_that_leaves_is_not_ready_and_refuses() -> None:
    """503 with the state in the body; `draining` also has Retry-After."""
    async with serving(toy_model()) as served:
        await served.engine.drain(1.0)
        health, refused = await served.client.get("/health"), await served.ask()
    assert (health.status_code, health.json()["state"]) == (503, "draining")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert int(refused.headers["retry-after"]) >= 1


async def test_live_is_200_in_every_state() -> None:
    """A liveness probe must not kill a worker that loads or drains."""
    async with serving(toy_model()) as served:
        assert (await served.client.get("/live")).status_code == 200
        await served.engine.close()
        assert (await served.client.get("/live")).status_code == 200


async def test_models_publish_every_decoding_mode_with_aliases_and_capabilities() -> None:
    """`twolane.capabilities` maps every capability of the closed set to true, false or its grade."""
    async with serving(toy_model()) as served:
        listing = (await served.client.get("/v1/models")).json()
    assert listing["object"] == "list"
    found = {entry["id"]: entry for entry in listing["data"]}
    assert set(found) == {MODEL, VERIFIED, READ}
    for entry in found.values():
        assert (entry["object"], entry["owned_by"], type(entry["created"])) == ("model", "twolane", int)
        assert set(entry["twolane"]["capabilities"]) == WORDS
    assert found[MODEL]["twolane"]["aliases"] == ["diffusion"]
    assert found[READ]["twolane"]["aliases"] == ["diffusion:autoregressive"]
    assert found[MODEL]["twolane"]["capabilities"]["prediction"] == "anchored"
    assert found[VERIFIED]["twolane"]["capabilities"]["prediction"] == "warm_start"
    assert found[READ]["twolane"]["capabilities"]["prediction"] == "none"
    for entry in found.values():
        assert entry["twolane"]["capabilities"]["json_schema"] == "guaranteed"


USAGE_SHAPE = {
    "prompt_tokens": "int",
    "completion_tokens": "int",
    "total_tokens": "int",
    "prompt_tokens_details": {"cached_tokens": "int"},
    "completion_tokens_details": {
        "accepted_prediction_tokens": "int",
        "rejected_prediction_tokens": "int",
        "reasoning_tokens": "int",
    },
    "diffusion": {
        "denoising_steps": "int",
        "forward_passes": "int",
        "tokens_per_forward": "float",
        "confidence": "float",
        "converged": "bool",
    },
}


async def test_usage_has_its_fields_and_is_true() -> None:
    """`hello` and its end token, from one canvas that converged."""
    async with serving(toy_model()) as served:
        body = (await served.ask("hello")).json()
    usage = body["usage"]
    assert shape(usage) == USAGE_SHAPE
    assert usage["completion_tokens"] == 6
    assert usage["total_tokens"] == usage["prompt_tokens"] + 6
    diffusion = usage["diffusion"]
    assert diffusion["forward_passes"] == served.model.passes
    assert diffusion["tokens_per_forward"] == round(6 / served.model.passes, 3)
    assert diffusion["confidence"] == pytest.approx(1.0)
    assert diffusion["converged"] is True
    assert (body["object"], body["model"], body["choices"][0]["finish_reason"]) == ("chat.completion", MODEL, "stop")


async def test_read_left_to_right_usage_has_the_same_fields() -> None:
    """No steps, one pass per token, nothing that could converge."""
    async with serving(toy_model()) as served:
        usage = (await served.ask("hello", model=READ)).json()["usage"]
    expected = {**USAGE_SHAPE, "diffusion": {**USAGE_SHAPE["diffusion"], "converged": "NoneType"}}  # type: ignore[dict-item]
    assert shape(usage) == expected
    assert (usage["diffusion"]["denoising_steps"], usage["diffusion"]["forward_passes"]) == (0, 6)


async def test_a_doubtful_answer_says_so() -> None:
    """Confidence is the geometric mean probability of its tokens, in every form of the answer."""
    async with serving(toy_model(confidence=0.5)) as served:
        usage = (await served.ask("hello", seed=1)).json()["usage"]
        assert usage["diffusion"]["confidence"] == pytest.approx(0.5, abs=0.05)


async def test_a_stream_ends_with_diffusion_on_its_finish_chunk() -> None:
    """A gateway can read the confidence although its client requested no usage."""
    async with serving(toy_model()) as served:
        *_, finish, done = events((await served.ask("hello", stream=True)).text)
    assert done == "[DONE]"
    assert shape(json.loads(finish)["diffusion"]) == USAGE_SHAPE["diffusion"]


@pytest.mark.parametrize(
    ("fields", "status", "kind", "param", "code"),
    [
        ({"model": "gpt-5"}, 404, "invalid_request_error", "model", "model_not_found"),
        ({"top_p": 1.5}, 400, "invalid_request_error", "top_p", "invalid_value"),
        ({"n": 2}, 400, "invalid_request_error", "n", "unsupported_parameter"),
        ({"max_tokens": 100_000}, 400, "invalid_request_error", "max_tokens", "context_length_exceeded"),
        ({"temperature": 3}, 400, "invalid_request_error", "temperature", "invalid_value"),
        ({"messages": []}, 400, "invalid_request_error", "messages", "invalid_value"),
    ],
)
async def test_errors_have_openais_shape(fields: dict[str, Any], status: int, kind: str, param: str, code: str) -> None:
    """Four fields, of which `code` is stable."""
    async with serving(toy_model()) as served:
        answer = await served.ask(**fields)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert {name: error[name] for name in ("type", "param", "code")} == {"type": kind, "param": param, "code": code}
    assert set(error) == {"message", "type", "param", "code"}


async def test_an_overloaded_worker_answers_429_with_retry_after() -> None:
    """Seconds, whole, at least one."""
    import asyncio

    model = toy_model(answer="y" * 2000, max_context=3000)
    async with serving(model, max_num_seqs=1, max_waiting=0) as served:
        with held(model):
            busy = asyncio.create_task(served.ask(max_tokens=1000))
            await until(lambda: served.engine.status().running == 1)
            shed = await served.ask()
            busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
    assert (shed.status_code, shed.json()["error"]["code"]) == (429, "overloaded")
    assert shed.json()["error"]["type"] == "rate_limit_error"
    assert int(shed.headers["retry-after"]) >= 1


def test_both_programs_know_the_same_decoding_modes() -> None:
    assert [*Decoding] == [*DecodingMode]
