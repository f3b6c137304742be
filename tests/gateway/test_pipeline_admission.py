"""Candidates that are skipped without a call: unsupported, not ready, full, slow or failing."""

from typing import Any

import pytest

from gateway.enums import Capability, Grade, Reason, Residency
from gateway.policy_types import Slo
from gateway.routing.engine_profiles import capabilities_of
from gateway.types import Capabilities, Status
from gateway.upstreams.scripted import fails, says

pytestmark = pytest.mark.anyio
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "order",
        "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    },
}
GOOD, BAD = '{"n": 1}', '{"m": 1}'
PICTURE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]


async def test_a_target_without_a_required_capability_is_skipped(stage: Any) -> None:
    words = capabilities_of(frozenset({Capability.CHAT}), json_schema=Grade.NONE, tools=Grade.NONE)
    scene = stage(fast=says("no"), quality=says("hi"), fast_target={"capabilities": words})
    await scene.send(stop=["x"])
    assert scene.attempts == {"fast": "unsupported", "quality": "ok"}
    assert scene.decision.attempts[0].detail == "lacks stop"


async def test_a_parameter_that_no_target_supports_is_a_clear_400(stage: Any) -> None:
    words = capabilities_of(frozenset({Capability.CHAT}), json_schema=Grade.NONE, tools=Grade.NONE)
    scene = stage(fast=says("no"), fast_target={"capabilities": words})
    sent = await scene.send(logit_bias={"5": -100})
    assert (sent.error.status, sent.error.code, sent.error.param) == (400, "unsupported", "logit_bias")
    assert "lacks logit_bias" in sent.error.message


SOUND = [{"type": "text", "text": "what is it?"}, {"type": "input_audio", "input_audio": {"data": "AA=="}}]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (PICTURE, "images"),
        (SOUND, "input_audio"),
        ([{"type": "file", "file": {}}], "file"),
        ([{"type": "video_url"}], "video_url"),
    ],
)
async def test_images_go_to_a_target_that_supports_them_and_are_a_clear_400_where_none_does(
    stage: Any, content: Any, name: str
) -> None:
    blind = capabilities_of(frozenset({Capability.CHAT}), json_schema=Grade.NONE, tools=Grade.NONE)
    seeing = capabilities_of(frozenset({Capability.CHAT, Capability.IMAGES}), json_schema=Grade.NONE, tools=Grade.NONE)
    body = {"messages": [{"role": "user", "content": content}]}
    given = {"fast": says("no"), "fast_target": {"capabilities": blind}}
    scene = stage(**given, quality=says("a cat"), quality_target={"capabilities": seeing})
    assert (await scene.send(**body)).text == "a cat"
    assert scene.attempts == {"fast": "unsupported", "quality": "ok"}
    sent = await stage(**given).send(**body)
    assert (sent.error.status, sent.error.code) == (400, "unsupported")
    assert f"lacks {name}" in sent.error.message


async def test_a_target_for_text_may_take_other_parts_by_name(stage: Any) -> None:
    hearing = Capabilities(supported=frozenset({Capability.CHAT}), fields=frozenset({"input_audio"}))
    scene = stage(fast=says("a bell"), fast_target={"capabilities": hearing})
    assert (await scene.send(messages=[{"role": "user", "content": SOUND}])).text == "a bell"


async def test_discovered_capabilities_count_as_well(stage: Any) -> None:
    scene = stage(fast=says("no"), quality=says("hi"))
    words = capabilities_of(frozenset({Capability.CHAT}), json_schema=Grade.NONE, tools=Grade.NONE)
    scene.targets["fast"].status = Status(residency=Residency.READY, capabilities=words)
    await scene.send(temperature=0)
    assert scene.attempts == {"fast": "unsupported", "quality": "ok"}


async def test_a_target_without_loaded_weights_is_skipped_without_delay(stage: Any) -> None:
    scene = stage(fast=says("no"), quality=says("hi"))
    scene.targets["fast"].status = Status(residency=Residency.LOADING)
    await scene.send()
    assert scene.attempts == {"fast": "not_resident", "quality": "ok"}
    assert scene.targets["fast"].calls == []


async def test_a_worker_that_is_too_busy_for_the_deadline_is_skipped(stage: Any) -> None:
    scene = stage(fast=says("no"), quality=says("hi"), route={"deadline_ms": 500})
    scene.targets["fast"].status = Status(residency=Residency.READY, predicted_wait_ms=600)
    await scene.send()
    assert scene.attempts == {"fast": "deadline", "quality": "ok"}


@pytest.mark.parametrize(("other_is_up", "attempts"), [(True, "overloaded"), (False, "ok")])
async def test_a_worker_with_a_predicted_wait_over_the_objective_is_skipped_for_a_healthy_fallback(
    stage: Any, tight_slo: Slo, other_is_up: bool, attempts: str
) -> None:
    scene = stage(fast=says("hi"), quality=says("hi"), route={"slo": tight_slo})
    scene.targets["fast"].status = Status(residency=Residency.READY, predicted_wait_ms=150)
    if not other_is_up:
        scene.targets["quality"].status = Status(residency=Residency.LOADING)
    await scene.send()
    assert scene.attempts["fast"] == attempts


async def test_a_slow_lane_is_ejected_and_recovers(stage: Any, tight_slo: Slo) -> None:
    """Ten late answers eject it; while ejected only probes call it; fast probes restore it."""
    scene = stage(fast=[*[says("late", before_s=0.2)] * 12, says("hi")], quality=says("hi"), route={"slo": tight_slo})
    for _ in range(10):
        await scene.send()
        assert scene.attempts == {"fast": "ok"}
    await scene.send()
    assert scene.attempts == {"fast": "p95_breach", "quality": "ok"}
    assert scene.listener.decisions[-1].fallback is Reason.P95_BREACH
    for _ in range(300):
        scene.clock.time_s += 0.2
        await scene.send()
    assert scene.attempts == {"fast": "ok"}
    assert len([d for d in scene.listener.decisions if d.target == "fast"]) < 300
    assert scene.listener.decisions[-1].attempts[0].probe is False


async def test_a_slow_lane_is_not_ejected_for_a_fallback_that_cannot_serve_the_request(
    stage: Any, tight_slo: Slo
) -> None:
    scene = stage(fast=says("late", before_s=0.2), route={"slo": tight_slo})
    for _ in range(30):
        await scene.send()
    assert {decision.target for decision in scene.listener.decisions} == {"fast"}


async def test_a_target_that_keeps_failing_is_skipped_for_a_while(stage: Any) -> None:
    scene = stage(fast=[*[fails()] * 5, says("back")], quality=says("hi"))
    for _ in range(5):
        await scene.send()
    await scene.send()
    assert scene.attempts == {"fast": "circuit_open", "quality": "ok"}
    scene.clock.time_s += 2.1
    assert (await scene.send()).text == "back"
    assert scene.listener.decisions[-1].attempts[0].probe


async def test_invalid_answers_do_not_open_the_breaker(stage: Any) -> None:
    scene = stage(fast=says(BAD), quality=says(GOOD))
    for _ in range(8):
        await scene.send(response_format=SCHEMA)
    assert len(scene.targets["fast"].calls) == 8


async def test_a_target_at_its_concurrency_limit_is_skipped(stage: Any) -> None:
    scene = stage(fast=says("a", "b"), quality=says("hi"), fast_target={"max_in_flight": 1})
    first = await scene.pipeline.handle(scene.query(stream=True))
    await scene.send()
    assert scene.attempts == {"fast": "overloaded", "quality": "ok"}
    await scene.read(first)
    await first.aclose()
    await scene.send()
    assert scene.attempts == {"fast": "ok"}


async def test_a_lane_ejected_for_its_latency_is_called_before_the_gateway_gives_up(stage: Any, tight_slo: Slo) -> None:
    lines = [*[says("late", before_s=0.2)] * 10, says("saved")]
    scene = stage(fast=lines, quality=fails(), route={"slo": tight_slo})
    for _ in range(10):
        await scene.send()
    scene.targets["quality"].calls.clear()
    assert (await scene.send()).text == "saved"
    last = scene.listener.decisions[-1]
    assert [f"{each.target}={each.outcome}" for each in last.attempts] == [
        "fast=p95_breach",
        "quality=upstream_error",
        "fast=ok",
    ]
    assert last.fallback is Reason.UPSTREAM_ERROR


async def test_a_lane_skipped_for_its_predicted_wait_is_called_before_the_gateway_gives_up(
    stage: Any, tight_slo: Slo
) -> None:
    scene = stage(fast=says("saved"), quality=fails(), route={"slo": tight_slo})
    scene.targets["fast"].status = Status(residency=Residency.READY, predicted_wait_ms=150)
    assert (await scene.send()).text == "saved"


async def test_a_breaker_that_faults_opened_is_not_passed_even_as_a_last_resort(stage: Any) -> None:
    scene = stage(fast=fails(), quality=[*[says("hi")] * 5, fails()])
    for _ in range(5):
        await scene.send()
    sent = await scene.send()
    assert sent.error.status == 502
    assert len(scene.targets["fast"].calls) == 5


async def test_an_ejected_lane_whose_breaker_is_open_is_not_called(stage: Any, tight_slo: Slo) -> None:
    lines = [*[says("late", before_s=0.2)] * 10, fails()]
    scene = stage(fast=lines, quality=fails(), route={"slo": tight_slo})
    for _ in range(10):
        await scene.send()
    for _ in range(8):
        await scene.send()
    assert len(scene.targets["fast"].calls) == 15  # five faults open its breaker


@pytest.mark.parametrize(("last", "attempts"), [(says("saved"), 1), (fails(), 1)])
async def test_two_lanes_at_one_slow_server_are_one_last_resort(
    stage: Any, tight_slo: Slo, last: Any, attempts: int
) -> None:
    lines = [*[says("late", before_s=0.2)] * 10, last]
    scene = stage(
        fast=lines, quality=fails(), careful=says("no"), route={"slo": tight_slo}, careful_target={"url": "http://fast"}
    )
    for _ in range(10):
        await scene.send()
    await scene.send()
    assert len(scene.targets["fast"].calls) == 10 + attempts
    assert scene.targets["careful"].calls == []
