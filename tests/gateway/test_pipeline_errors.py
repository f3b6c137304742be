"""Which error a client gets when no target served its request, and which targets are tried before."""

from typing import Any

import pytest

from gateway.enums import Capability, ErrorSource, Kind, Reason, Residency
from gateway.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    InsufficientQuota,
    InvalidOutput,
    OutOfBytes,
    Overloaded,
    Refused,
    TargetRateLimited,
    Unsupported,
    UpstreamError,
)
from gateway.routing.engine_profiles import capabilities_of
from gateway.types import Capabilities, Status
from gateway.upstreams.scripted import fails, says

pytestmark = pytest.mark.anyio
TOO_LONG = ContextLengthExceeded("The limit is 4096.", limit=4096, needed=5077)


def with_context(length: int | None) -> dict[str, Any]:
    every = frozenset(Capability)
    return {"capabilities": Capabilities(supported=every, context_length=length)}


async def test_a_request_that_is_too_long_for_one_target_is_answered_by_the_next(stage: Any) -> None:
    scene = stage(fast=fails(TOO_LONG), quality=says("hi"))
    sent = await scene.send()
    assert sent.text == "hi"
    assert scene.attempts == {"fast": "context_length_exceeded", "quality": "ok"}
    assert scene.decision.fallback is Reason.CONTEXT_LENGTH_EXCEEDED


async def test_a_target_whose_context_is_known_to_be_too_short_as_well_is_not_asked(stage: Any) -> None:
    scene = stage(fast=fails(TOO_LONG), careful=says("no"), quality=says("hi"), careful_target=with_context(4096))
    sent = await scene.send()
    assert sent.text == "hi"
    assert scene.attempts["careful"] == "context_length_exceeded"
    assert scene.targets["careful"].calls == []
    assert scene.decision.attempts[1].detail == "context of 4096 tokens, at least 5077 needed"


@pytest.mark.parametrize("length", [5077, 8192, None])
async def test_a_target_whose_context_is_long_enough_or_unknown_is_asked(stage: Any, length: int | None) -> None:
    scene = stage(fast=fails(TOO_LONG), quality=says("hi"), quality_target=with_context(length))
    assert (await scene.send()).text == "hi"


@pytest.mark.parametrize(("limit", "asked"), [(4096, False), (4097, True)])
async def test_without_the_request_s_own_length_a_context_must_be_longer_than_the_one_that_was_too_short(
    stage: Any, limit: int, asked: bool
) -> None:
    error = ContextLengthExceeded("too long", limit=4096)
    scene = stage(fast=fails(error), quality=says("hi"), quality_target=with_context(limit))
    await scene.send()
    assert bool(scene.targets["quality"].calls) is asked


async def test_a_worker_s_context_is_known_from_its_models(stage: Any) -> None:
    scene = stage(quality=fails(TOO_LONG), fast=says("no"))
    scene.targets["fast"].status = Status(residency=Residency.READY, capabilities=with_context(2048)["capabilities"])
    sent = await scene.send()
    assert (sent.error.status, sent.error.code) == (400, "context_length_exceeded")
    assert scene.targets["fast"].calls == []


async def test_a_context_that_a_target_named_once_is_known_for_later_requests(stage: Any) -> None:
    longer = ContextLengthExceeded("The limit is 4000.", limit=4000, needed=5000)
    scene = stage(fast=fails(longer), careful=[fails(TOO_LONG), says("no")], quality=says("hi"))
    await scene.send()
    await scene.send()
    assert len(scene.targets["careful"].calls) == 1
    scene.clock.time_s += 601  # it may have been restarted with a longer context
    await scene.send()
    assert len(scene.targets["careful"].calls) == 2


async def test_if_nobody_is_left_the_words_are_those_of_the_longest_context(stage: Any) -> None:
    short = ContextLengthExceeded("The limit is 2048.", limit=2048, needed=5000)
    scene = stage(fast=fails(TOO_LONG), quality=fails(short))
    sent = await scene.send()
    assert (sent.error.status, sent.error.code, sent.error.param) == (400, "context_length_exceeded", "messages")
    assert sent.error.message == "The limit is 4096."
    assert not sent.error.retryable


async def test_requests_that_are_too_long_do_not_open_the_breaker(stage: Any) -> None:
    scene = stage(fast=fails(TOO_LONG), quality=says("hi"))
    for _ in range(20):
        assert (await scene.send()).text == "hi"
    assert len(scene.targets["fast"].calls) == 20


@pytest.mark.parametrize("stream", [False, True])
async def test_an_outage_of_the_first_target_outweighs_what_the_last_one_cannot_do(stage: Any, stream: bool) -> None:
    few = {"capabilities": capabilities_of(frozenset({Capability.CHAT}), json_schema=None, tools=None)}  # type: ignore[arg-type]
    scene = stage(fast=fails(UpstreamError("down")), quality=says("no"), quality_target=few)
    sent = await scene.send(temperature=0.3, stream=stream)
    assert (sent.error.status, sent.error.code, sent.error.retryable) == (502, "upstream_error", True)
    assert scene.attempts == {"fast": "upstream_error", "quality": "unsupported"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": 0.3}, "temperature"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"structured_outputs": {"regex": "a+"}}, "structured_outputs"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "x"}}]}]}, "messages"),
    ],
)
async def test_a_field_that_no_target_supports_is_named(stage: Any, body: Any, param: str) -> None:
    few = {"capabilities": Capabilities(supported=frozenset({Capability.CHAT}))}
    scene = stage(fast=says("no"), fast_target=few)
    sent = await scene.send(**body)
    assert (sent.error.status, sent.error.code, sent.error.param) == (400, "unsupported", param)
    assert not sent.error.retryable


async def test_where_every_target_is_limited_by_its_provider_the_client_gets_429_and_the_shortest_wait(
    stage: Any,
) -> None:
    first, second = (TargetRateLimited("limited", retry_after_s=wait_s) for wait_s in (60, 20))
    scene = stage(fast=fails(first), quality=fails(second))
    sent = await scene.send()
    assert (sent.error.status, sent.error.code, sent.error.kind) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert sent.error.retry_after_s == 20
    assert scene.attempts == {"fast": "overloaded", "quality": "overloaded"}


async def test_a_target_that_is_merely_busy_is_503(stage: Any) -> None:
    scene = stage(fast=fails(Overloaded("busy")), quality=fails(TargetRateLimited("limited", retry_after_s=60)))
    assert (await scene.send()).error.status == 503


async def test_an_account_without_quota_is_told_apart_from_a_rate_limit(stage: Any) -> None:
    scene = stage(fast=fails(InsufficientQuota("empty")))
    error = (await scene.send()).error
    assert (error.status, error.code, error.kind) == (429, "insufficient_quota", "insufficient_quota")
    assert (error.retryable, error.retry_after_s) == (False, None)


@pytest.mark.parametrize(
    ("error", "should_retry"),
    [
        (UpstreamError("x"), True),
        (Overloaded("x"), True),
        (DeadlineExceeded("x"), True),
        (InvalidOutput("x"), False),
        (Refused("x"), False),
        (Unsupported("x"), False),
        (TOO_LONG, False),
    ],
)
async def test_whether_to_try_again_is_what_the_error_says(stage: Any, error: Any, should_retry: bool) -> None:
    assert (await stage(fast=fails(error)).send()).error.retryable is should_retry


async def test_a_private_request_that_no_target_in_the_cluster_could_serve_may_be_tried_again(stage: Any) -> None:
    error = (await stage(fast=fails(), quality=says("no")).send(metadata={"private": True})).error
    assert (error.code, error.retryable, error.retry_after_s) == ("no_private_target", True, 1.0)


async def test_a_private_request_without_any_target_in_the_cluster_may_not(stage: Any) -> None:
    outside = {"kind": Kind.OPENAI, "location": "external"}
    error = (await stage(fast=says("no"), fast_target=outside).send(metadata={"private": True})).error
    assert (error.status, error.code, error.retryable) == (503, "no_private_target", False)


@pytest.mark.parametrize(
    ("error", "status", "source"),
    [
        (Refused("no", status=422), 422, ErrorSource.CLIENT),
        (Unsupported("no tools"), 400, ErrorSource.CLIENT),
        (TOO_LONG, 400, ErrorSource.CLIENT),
        (UpstreamError("down"), 502, ErrorSource.TARGET),
        (Overloaded("full"), 503, ErrorSource.TARGET),
        (OutOfBytes("full"), 503, ErrorSource.GATEWAY),
    ],
)
async def test_a_decision_says_who_caused_an_error(stage: Any, error: Any, status: int, source: ErrorSource) -> None:
    scene = stage(fast=fails(error), careful=fails(error), quality=fails(error))
    await scene.send()
    assert (scene.decision.status, scene.decision.error_source) == (status, source)


async def test_a_decision_about_an_answer_has_no_source_of_errors(stage: Any) -> None:
    scene = stage(fast=says("hi"))
    await scene.send()
    assert (scene.decision.status, scene.decision.error_source) == (200, None)


@pytest.mark.parametrize(
    ("headers", "source"),
    [({b"x-twolane-deadline-ms": b"400"}, ErrorSource.CLIENT), ({}, ErrorSource.TARGET)],
)
async def test_a_deadline_that_the_client_shortened_is_its_own(
    stage: Any, headers: dict[bytes, bytes], source: ErrorSource
) -> None:
    late = DeadlineExceeded("late")
    scene = stage(fast=fails(late), careful=fails(late), quality=fails(late))
    await scene.send(headers=headers)
    assert (scene.decision.status, scene.decision.error_source) == (504, source)
