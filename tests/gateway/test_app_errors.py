"""The whole gateway over real sockets: errors of targets as clients receive them."""

import asyncio
import logging
from typing import Any

import orjson
import pytest
from aiohttp import web

from gateway.reliability.breaker import BreakerRule
from tests.gateway.serving import ask, one_lane, two_lanes

pytestmark = pytest.mark.anyio
VLLM = (
    "This model's maximum context length is 4096 tokens. However, you requested 5077 tokens (4877 in the messages, 200"
    " in the completion). Please reduce the length of the messages or completion."
)
TOO_LONG = {
    "vLLM": (400, {"object": "error", "message": VLLM, "type": "BadRequestError", "param": None, "code": 400}),
    "vLLM, later": (400, {"error": {"message": VLLM, "type": "BadRequestError", "param": None, "code": 400}}),
    "SGLang": (400, {"object": "error", "message": "The input (5077 tokens) is longer than the model's context length"
                     " (4096 tokens).", "type": "BadRequestError", "param": None, "code": 400}),
    "llama.cpp": (400, {"error": {"code": 400, "message": "request (5077 tokens) exceeds the available context size"
                        " (4096 tokens), try increasing it", "type": "exceed_context_size_error",
                        "n_prompt_tokens": 5077, "n_ctx": 4096}}),
    "llama.cpp, earlier": (500, {"error": {"code": 500, "message": "the request exceeds the available context size.",
                                 "type": "server_error"}}),
    "OpenAI": (400, {"error": {"message": "This model's maximum context length is 8192 tokens. However, your messages"
                     " resulted in 10000 tokens.", "type": "invalid_request_error", "param": "messages",
                     "code": "context_length_exceeded"}}),
    "TGI": (422, {"error": "Input validation error: `inputs` must have less than 4095 tokens. Given: 5077",
                  "error_type": "validation"}),
    "a proxy of FastAPI": (400, {"detail": "Prompt is too long: 5077 tokens > 4096 maximum"}),
}  # fmt: skip


def refuses(status: int, body: Any, **headers: str) -> Any:
    async def answer(*_: Any) -> web.StreamResponse:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(body, status=status, headers=names)

    return answer


def words_of(body: Any) -> str:
    error = body.get("error", body)
    return str(error if isinstance(error, str) else error.get("message", body.get("detail")))


@pytest.mark.parametrize("server", TOO_LONG)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_is_too_long_gets_the_words_of_its_target(
    fake: Any, serving: Any, server: str, stream: bool
) -> None:
    status, told = TOO_LONG[server]
    async with fake(refuses(status, told)) as target, serving(one_lane(target.url)) as gateway:
        got, headers, body = await gateway.ask(ask(stream=stream))
    assert (got, body["error"]["code"], body["error"]["type"]) == (
        400, "context_length_exceeded", "invalid_request_error",
    )  # fmt: skip
    assert (body["error"]["message"], body["error"]["param"]) == (words_of(told), "messages")
    assert headers["x-should-retry"] == "false"
    assert headers["x-twolane-attempts"] == "only=context_length_exceeded"


async def test_a_request_that_is_too_long_tries_the_next_target_and_feeds_no_breaker(
    fake: Any, serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.state.memory.BreakerRule", lambda: BreakerRule(failures=1))
    async with (
        fake(refuses(*TOO_LONG["vLLM"])) as fast,
        fake() as quality,
        serving(two_lanes(fast.url, quality.url)) as gateway,
    ):
        told = [(await gateway.ask())[1]["x-twolane-attempts"] for _ in range(3)]
        page = await gateway.metrics()
    assert told == ["fast=context_length_exceeded,quality=ok"] * 3
    assert 'twolane_breaker_state{target="fast"} 0.0' in page


async def test_an_error_inside_a_stream_keeps_its_meaning(fake: Any, serving: Any, wire: Any) -> None:
    """vLLM sends the error of a request as an event, after status 200."""

    async def answer(request: web.Request, _: Any) -> web.StreamResponse:
        stream = await wire.start_stream(request)
        await stream.write(b"data: " + orjson.dumps(TOO_LONG["vLLM, later"][1]) + b"\n\ndata: [DONE]\n\n")
        return stream

    async with fake(answer) as target, serving(one_lane(target.url)) as gateway:
        status, _, body = await gateway.ask(ask(stream=True))
    assert (status, body["error"]["code"], body["error"]["message"]) == (400, "context_length_exceeded", VLLM)


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (429, {"code": "rate_limit_exceeded"}, ("rate_limit_exceeded", "rate_limit_error", "true")),
        (429, {}, ("rate_limit_exceeded", "rate_limit_error", "true")),
        (429, {"type": "insufficient_quota"}, ("insufficient_quota", "insufficient_quota", "false")),
        (429, {"code": "insufficient_quota"}, ("insufficient_quota", "insufficient_quota", "false")),
        (402, {"code": "invalid_request_error"}, ("insufficient_quota", "insufficient_quota", "false")),
    ],
)
async def test_quota_of_the_provider_is_429_and_names_no_account(
    fake: Any, serving: Any, status: int, error: Any, expected: tuple[str, str, str]
) -> None:
    told = {"error": {"message": "org-secret has no more", **error}}
    async with fake(refuses(status, told, retry_after="60")) as target, serving(one_lane(target.url)) as gateway:
        got, headers, body = await gateway.ask()
    assert (body["error"]["code"], body["error"]["type"], headers["x-should-retry"]) == expected
    assert got == 429
    assert "org-secret" not in body["error"]["message"]


async def test_the_client_s_own_limit_is_429_with_the_time_to_wait(fake: Any, serving: Any) -> None:
    async with fake() as target:
        policy = orjson.loads(one_lane(target.url)) | {"limits": [{"requests_per_minute": 1}]}
        async with serving(orjson.dumps(policy).decode()) as gateway:
            await gateway.ask()
            status, headers, body = await gateway.ask()
    assert (status, body["error"]["code"], headers["x-should-retry"]) == (429, "rate_limit_exceeded", "true")
    assert 50 <= int(headers["retry-after"]) <= 60


async def test_an_outage_is_never_reported_as_an_invalid_request(fake: Any, serving: Any) -> None:
    """The first target is down; the last one refuses, lacks a capability, or is too short."""
    async with fake() as gone:
        pass
    for status, told in ((400, {"error": {"code": "unsupported_parameter"}}), TOO_LONG["vLLM"]):
        async with fake(refuses(status, told)) as last, serving(two_lanes(gone.url, last.url)) as gateway:
            got, headers, body = await gateway.ask()
        assert (got, body["error"]["code"], headers["x-should-retry"]) == (502, "upstream_error", "true")


async def test_an_unknown_model_and_a_wrong_key_look_like_openai_s(fake: Any, serving: Any, tmp_path: Any) -> None:
    (tmp_path / "keys").write_text(f"app sha256:{'0' * 64}\n")
    async with fake() as target:
        async with serving(one_lane(target.url)) as gateway:
            unknown = await gateway.ask({**ask(), "model": "gpt-9"})
        async with serving(one_lane(target.url), keys_file=tmp_path / "keys") as gateway:
            wrong = await gateway.ask(authorization="Bearer sk-wrong")
    for (status, headers, body), expected in ((unknown, (404, "model_not_found")), (wrong, (401, "invalid_api_key"))):
        assert (status, body["error"]["code"]) == expected
        assert body["error"]["type"] == "invalid_request_error"
        assert headers["x-should-retry"] == "false"
        assert "retry-after" not in headers


async def test_the_log_says_why_a_response_changed_target_and_when_its_lane_changes(
    fake: Any, serving: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="gateway.events")
    policy = two_lanes("{fast}", "{quality}", slo={"p95_ms": 1000})
    async with fake(refuses(500, {"error": {"message": "secret words"}})) as fast, fake() as quality:
        text = policy.replace("{fast}", fast.url).replace("{quality}", quality.url)
        async with serving(text) as gateway:
            for _ in range(40):
                await gateway.ask()
            async with asyncio.timeout(120):
                while not any("breaker fast: open" in record.getMessage() for record in caplog.records):  # noqa: ASYNC110 - of the gateway
                    await asyncio.sleep(0.01)
    failed = [record.getMessage() for record in caplog.records if record.getMessage().startswith("attempt failed")]
    assert "upstream_error (status 500)" in failed[0]
    assert "served by quality" in failed[0]
    assert len(failed) < 10, "one line for many failures"
    assert "secret words" not in caplog.text
    (opened,) = [record for record in caplog.records if record.getMessage().startswith("breaker fast: open")]
    fields = vars(opened)["fields"]
    assert (fields["reason"], fields["status"], fields["detail"]) == ("upstream_error", 500, "status 500")
    assert fields["request_id"].startswith("req_")
