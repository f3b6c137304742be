"""The story of a request, branch by branch, over scripted targets and a clock that stands still."""

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.engines import capabilities_of
from gateway.errors import (
    AttemptFailed,
    InvalidOutput,
    NotResident,
    Overloaded,
    Refused,
    Unsupported,
    UpstreamError,
)
from gateway.records import Status
from gateway.terms import Slo
from gateway.upstreams.scripted import fails, says
from gateway.words import Capability, Grade, Outcome, Reason, Residency, SchemaCheck

pytestmark = pytest.mark.anyio

SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "order",
        "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    },
}
GOOD, BAD = '{"n": 1}', '{"m": 1}'


async def test_the_first_candidate_answers_when_all_is_well(stage: Any) -> None:
    scene = stage(fast=says("hi"), quality=says("no"))
    sent = await scene.send()
    assert sent.text == "hi"
    assert scene.attempts == {"fast": "ok"}
    assert (scene.decision.target, scene.decision.outcome, scene.decision.fallback) == ("fast", Outcome.OK, None)
    assert scene.targets["quality"].calls == []


async def test_a_fault_of_the_first_makes_the_second_answer(stage: Any) -> None:
    scene = stage(fast=fails(), quality=says("hi"))
    sent = await scene.send()
    assert sent.text == "hi"
    assert scene.attempts == {"fast": "upstream_error", "quality": "ok"}
    assert scene.decision.fallback is Reason.UPSTREAM_ERROR


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_breaks_the_schema_never_leaves(stage: Any, stream: bool) -> None:
    scene = stage(fast=says('{"m"', ": 1}"), quality=says('{"n"', ": 1}"))
    sent = await scene.send(response_format=SCHEMA, stream=stream)
    assert sent.text == GOOD
    assert b'\\"m' not in b"".join(sent.data)
    assert scene.attempts == {"fast": "invalid_output", "quality": "ok"}
    assert scene.decision.attempts[0].detail == "required at #/properties/n, byte 7"
    assert scene.decision.schema_check is SchemaCheck.VALID


async def test_headers_of_a_held_stream_name_the_target_that_sends_the_bytes(stage: Any) -> None:
    scene = stage(fast=says(BAD), quality=says(GOOD))
    sent = await scene.send(response_format=SCHEMA, stream=True)
    assert sent.headers.target == "quality"
    assert sent.headers.fallback is Reason.INVALID_OUTPUT
    assert sent.headers.schema_check is SchemaCheck.VALID


async def test_a_held_stream_is_relayed_chunk_by_chunk(stage: Any) -> None:
    scene = stage(fast=says('{"n"', ": ", "1}"))
    sent = await scene.send(response_format=SCHEMA, stream=True)
    assert sent.texts == ['{"n"', ": ", "1}", ""]


async def test_a_stream_that_can_no_longer_be_valid_is_left_before_its_end(stage: Any) -> None:
    scene = stage(fast=says("Sure", ", here you are: ", GOOD), quality=says(GOOD))
    sent = await scene.send(response_format=SCHEMA, stream=True)
    assert sent.text == GOOD
    assert scene.targets["fast"].left == 1


async def test_arguments_of_a_tool_call_are_checked(stage: Any) -> None:
    def calls(arguments: str) -> dict[str, Any]:
        return {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}

    tools = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA["json_schema"]["schema"]}}]
    scene = stage(fast=says(extra=calls(BAD)), quality=says(extra=calls(GOOD)))
    await scene.send(tools=tools)
    assert scene.attempts == {"fast": "invalid_output", "quality": "ok"}


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_its_maker_doubts_falls_back(stage: Any, stream: bool) -> None:
    scene = stage(fast=says("eh", confidence=0.3), quality=says("hi"), route={"min_confidence": 0.8})
    sent = await scene.send(stream=stream)
    assert sent.text == "hi"
    assert scene.attempts == {"fast": "low_confidence", "quality": "ok"}
    assert scene.decision.attempts[0].detail == "confidence 0.300 < 0.8"


async def test_where_confidence_is_asked_for_silence_is_doubt(stage: Any) -> None:
    scene = stage(fast=says("eh"), quality=says("hi"), route={"min_confidence": 0.8})
    await scene.send()
    assert scene.attempts == {"fast": "low_confidence", "quality": "ok"}


async def test_enough_confidence_is_served(stage: Any) -> None:
    scene = stage(fast=says("hi", confidence=0.9), route={"min_confidence": 0.8})
    assert (await scene.send()).text == "hi"


SAME_SERVER = {"careful_target": {"url": "http://fast"}}


@pytest.mark.parametrize("fault", [UpstreamError("gone"), Overloaded("full"), NotResident("cold")])
async def test_a_server_that_failed_is_not_asked_again_under_another_name(stage: Any, fault: AttemptFailed) -> None:
    scene = stage(fast=fails(fault), careful=says("no"), quality=says("hi"), **SAME_SERVER)
    await scene.send()
    assert scene.attempts == {"fast": str(fault.reason), "careful": str(fault.reason), "quality": "ok"}
    assert scene.targets["careful"].calls == []
    assert scene.decision.attempts[1].skipped


async def test_an_invalid_answer_may_be_tried_by_another_reading_of_the_same_weights(stage: Any) -> None:
    scene = stage(fast=says(BAD), careful=says(GOOD), quality=says("no"), **SAME_SERVER)
    await scene.send(response_format=SCHEMA)
    assert scene.attempts == {"fast": "invalid_output", "careful": "ok"}


async def test_when_nobody_is_left_the_last_fault_is_the_answer(stage: Any) -> None:
    scene = stage(fast=fails(), quality=says(BAD))
    sent = await scene.send(response_format=SCHEMA)
    assert (sent.error.status, sent.error.code) == (502, "invalid_output")
    assert scene.decision.outcome is Outcome.ERROR
    assert scene.decision.target is None
    assert scene.attempts == {"fast": "upstream_error", "quality": "invalid_output"}


async def test_a_target_without_a_needed_capability_is_passed_over(stage: Any) -> None:
    words = capabilities_of(frozenset({Capability.CHAT}), json_schema=Grade.NONE, tools=Grade.NONE)
    scene = stage(fast=says("no"), quality=says("hi"), fast_target={"capabilities": words})
    await scene.send(stop=["x"])
    assert scene.attempts == {"fast": "unsupported", "quality": "ok"}
    assert scene.decision.attempts[0].detail == "lacks stop"


async def test_a_parameter_that_no_target_can_honour_is_a_clear_400(stage: Any) -> None:
    words = capabilities_of(frozenset({Capability.CHAT}), json_schema=Grade.NONE, tools=Grade.NONE)
    scene = stage(fast=says("no"), fast_target={"capabilities": words})
    sent = await scene.send(n=2)
    assert (sent.error.status, sent.error.code) == (400, "unsupported")
    assert "lacks n" in sent.error.message


PICTURE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]


async def test_pictures_go_to_a_target_that_sees_and_are_a_clear_400_where_none_does(stage: Any) -> None:
    blind = capabilities_of(frozenset({Capability.CHAT}), json_schema=Grade.NONE, tools=Grade.NONE)
    seeing = capabilities_of(frozenset({Capability.CHAT, Capability.IMAGES}), json_schema=Grade.NONE, tools=Grade.NONE)
    body = {"messages": [{"role": "user", "content": PICTURE}]}
    given = {"fast": says("no"), "fast_target": {"capabilities": blind}}
    scene = stage(**given, quality=says("a cat"), quality_target={"capabilities": seeing})
    assert (await scene.send(**body)).text == "a cat"
    assert scene.attempts == {"fast": "unsupported", "quality": "ok"}
    sent = await stage(**given).send(**body)
    assert (sent.error.status, sent.error.code) == (400, "unsupported")


async def test_discovered_capabilities_count_as_well(stage: Any) -> None:
    scene = stage(fast=says("no"), quality=says("hi"))
    words = capabilities_of(frozenset({Capability.CHAT}), json_schema=Grade.NONE, tools=Grade.NONE)
    scene.targets["fast"].status = Status(residency=Residency.READY, capabilities=words)
    await scene.send(temperature=0)
    assert scene.attempts == {"fast": "unsupported", "quality": "ok"}


async def test_a_model_that_is_not_in_memory_is_passed_over_without_losing_time(stage: Any) -> None:
    scene = stage(fast=says("no"), quality=says("hi"))
    scene.targets["fast"].status = Status(residency=Residency.LOADING)
    await scene.send()
    assert scene.attempts == {"fast": "not_resident", "quality": "ok"}
    assert scene.targets["fast"].calls == []


async def test_the_words_of_a_target_that_refuses_reach_the_client_if_nobody_else_answers(stage: Any) -> None:
    told = Refused("'max_tokens' is too large.", status=400, code="invalid_value", param="max_tokens")
    scene = stage(fast=fails(Unsupported("no seeds here")), quality=fails(told))
    sent = await scene.send()
    assert (sent.error.status, sent.error.code, sent.error.param) == (400, "invalid_value", "max_tokens")
    assert scene.attempts == {"fast": "unsupported", "quality": "refused"}


async def test_a_model_that_declines_is_asked_only_if_nobody_else_can_be(stage: Any) -> None:
    declines = says(extra={"content": None, "refusal": "I would rather not."})
    scene = stage(fast=declines, quality=declines)
    sent = await scene.send()
    assert scene.attempts == {"fast": "refused", "quality": "ok"}
    assert b"I would rather not." in sent.data[0]


async def test_the_deadline_of_a_request_ends_it(stage: Any) -> None:
    scene = stage(fast=fails(UpstreamError("late"), before_s=0.5), quality=says("hi"))
    sent = await scene.send(headers={b"x-twolane-deadline-ms": b"400"})
    assert (sent.error.status, sent.error.code) == (504, "deadline_exceeded")
    assert scene.attempts == {"fast": "upstream_error", "quality": "deadline"}
    assert scene.targets["quality"].calls == []


async def test_each_attempt_gets_what_is_left_of_the_deadline(stage: Any) -> None:
    scene = stage(fast=fails(before_s=0.25), quality=says("hi"), route={"deadline_ms": 1000})
    await scene.send()
    left = [scene.targets[name].calls[0].left_ms for name in ("fast", "quality")]
    assert left == pytest.approx([1000, 750])


async def test_an_attempt_that_outlasts_the_deadline_is_hung_up_on(stage: Any) -> None:
    scene = stage(fast=says("late"), quality=says("hi"))
    scene.targets["fast"]._sleep = _hang(scene)
    sent = await scene.send(headers={b"x-twolane-deadline-ms": b"5"})
    assert sent.error.code == "deadline_exceeded"
    assert scene.attempts["fast"] == "deadline"
    assert scene.targets["fast"].left == 1


async def test_a_worker_too_busy_for_the_deadline_is_passed_over(stage: Any) -> None:
    scene = stage(fast=says("no"), quality=says("hi"), route={"deadline_ms": 500})
    scene.targets["fast"].status = Status(residency=Residency.READY, predicted_wait_ms=600)
    await scene.send()
    assert scene.attempts == {"fast": "deadline", "quality": "ok"}


async def test_a_slow_lane_is_benched_and_heals(stage: Any, tight_slo: Slo) -> None:
    """Ten late answers bench it; while benched only probes call it; quick probes bring it back."""
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


async def test_a_slow_lane_is_not_benched_for_a_fallback_that_cannot_take_over(stage: Any, tight_slo: Slo) -> None:
    scene = stage(fast=says("late", before_s=0.2), route={"slo": tight_slo})
    for _ in range(30):
        await scene.send()
    assert {decision.target for decision in scene.listener.decisions} == {"fast"}


async def test_a_target_that_keeps_failing_is_left_alone_for_a_while(stage: Any) -> None:
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


async def test_a_full_target_is_passed_over(stage: Any) -> None:
    scene = stage(fast=says("a", "b"), quality=says("hi"), fast_target={"max_in_flight": 1})
    first = await scene.pipeline.answer(scene.query(stream=True))
    await scene.send()
    assert scene.attempts == {"fast": "overloaded", "quality": "ok"}
    await scene.read(first)
    await first.aclose()
    await scene.send()
    assert scene.attempts == {"fast": "ok"}


async def test_a_private_request_stays_in_the_cluster(stage: Any) -> None:
    scene = stage(fast=fails(), quality=says("no"))
    sent = await scene.send(headers={b"x-twolane-private": b"true"})
    assert (sent.error.status, sent.error.code) == (503, "no_private_target")
    assert scene.targets["quality"].calls == []
    assert scene.decision.private


async def test_a_private_request_that_is_itself_wrong_is_told_so(stage: Any) -> None:
    scene = stage(fast=fails(Refused("'top_k' is unknown.", code="unsupported_parameter")), quality=says("no"))
    sent = await scene.send(metadata={"private": "true"})
    assert sent.error.status == 400
    assert sent.error.message == "'top_k' is unknown."


async def test_an_unknown_model_is_404_and_still_a_decision(stage: Any) -> None:
    scene = stage(fast=says("no"))
    sent = await scene.send(model="gpt-17")
    assert (sent.error.status, sent.error.code, sent.error.param) == (404, "model_not_found", "model")
    assert scene.decision.outcome is Outcome.ERROR
    assert scene.decision.route == ""


async def test_a_target_can_be_named_and_then_nobody_else_is_asked(stage: Any) -> None:
    scene = stage(fast=fails(), quality=says("hi"))
    sent = await scene.send(model="fast")
    assert sent.error.code == "upstream_error"
    assert scene.decision.route == "direct"
    assert scene.targets["quality"].calls == []


async def test_a_stream_without_checks_is_relayed_as_it_comes(stage: Any) -> None:
    scene = stage(fast=says("a", "b", between_s=1.0))
    answer = await scene.pipeline.answer(scene.query(stream=True))
    opened_s = scene.clock.time_s
    deltas = answer.deltas()
    assert (await anext(deltas)).pieces[0].text == "a"
    assert scene.clock.time_s == opened_s  # nothing more was waited for
    assert (await anext(deltas)).pieces[0].text == "b"
    await answer.aclose()


async def test_a_stream_that_dies_before_its_first_text_falls_back(stage: Any) -> None:
    scene = stage(fast=fails(UpstreamError("gone"), ""), quality=says("hi"))
    sent = await scene.send(stream=True)
    assert sent.text == "hi"
    assert scene.attempts == {"fast": "upstream_error", "quality": "ok"}


async def test_a_stream_that_dies_behind_the_point_of_no_return_breaks_off_and_says_so(stage: Any) -> None:
    scene = stage(fast=fails(UpstreamError("gone"), "a", "b"), quality=says("no"))
    sent = await scene.send(stream=True)
    assert sent.texts == ["a", "b"]
    assert isinstance(sent.broken, UpstreamError)
    assert scene.targets["quality"].calls == []
    assert scene.attempts == {"fast": "upstream_error"}
    assert (scene.decision.outcome, scene.decision.target) == (Outcome.ERROR, "fast")


async def test_a_stream_that_outlives_the_deadline_breaks_off_and_says_so(stage: Any) -> None:
    scene = stage(fast=says("a", "b"))
    answer = await scene.pipeline.answer(scene.query(stream=True, headers={b"x-twolane-deadline-ms": b"50"}))
    answer._attempt._reply._sleep = _hang(scene)
    sent = await scene.read(answer)
    await answer.aclose()
    assert sent.texts == ["a"]
    assert sent.broken.code == "deadline_exceeded"
    assert scene.attempts == {"fast": "deadline"}


async def test_a_client_that_leaves_before_the_answer_cancels_the_attempt(stage: Any) -> None:
    scene = stage(fast=says("late"), quality=says("no"))
    scene.targets["fast"]._sleep = lambda _: asyncio.sleep(5)
    task = asyncio.create_task(scene.pipeline.answer(scene.query()))
    await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert scene.targets["fast"].left == 1
    assert scene.targets["quality"].calls == []
    assert scene.decision.outcome is Outcome.CLIENT_GONE
    assert scene.attempts == {"fast": "cancelled"}
    assert _in_flight(scene) == 0


async def test_a_client_that_leaves_inside_a_stream_hangs_up_on_the_target(stage: Any) -> None:
    scene = stage(fast=says("a", "b", "c"))
    answer = await scene.pipeline.answer(scene.query(stream=True))
    deltas = answer.deltas()
    await anext(deltas)
    await deltas.aclose()
    await answer.aclose()
    assert scene.targets["fast"].left == 1
    assert scene.decision.outcome is Outcome.CLIENT_GONE
    assert scene.attempts == {"fast": "cancelled"}
    assert _in_flight(scene) == 0


async def test_the_account_of_a_stream_is_kept_and_shown_only_if_asked_for(stage: Any) -> None:
    scene = stage(fast=says("hi"))
    quiet = await scene.send(stream=True)
    assert b"usage" not in b"".join(quiet.data)
    told = await scene.send(stream=True, stream_options={"include_usage": True})
    assert b"usage" in told.data[-1]
    assert [decision.usage.output_tokens for decision in scene.listener.decisions] == [1, 1]


async def test_a_mistake_of_ours_is_explained_too_and_leaves_nothing_in_flight(stage: Any) -> None:
    scene = stage(fast=fails(cast("AttemptFailed", ZeroDivisionError())))
    with pytest.raises(ZeroDivisionError):
        await scene.send()
    assert (scene.decision.outcome, scene.attempts) == (Outcome.ERROR, {"fast": "cancelled"})


async def test_explaining_calls_nobody_and_changes_nothing(stage: Any, tight_slo: Slo) -> None:
    scene = stage(fast=says("no"), quality=says("no"), route={"slo": tight_slo})
    scene.targets["fast"].status = Status(residency=Residency.COLD)
    decision, looks = scene.pipeline.explain(scene.query())
    assert decision.route == "main"
    assert [(c.target.name, v.reason) for c, _, v in looks] == [("fast", Reason.NOT_RESIDENT), ("quality", None)]
    assert not any(target.calls for target in scene.targets.values())
    assert scene.listener.decisions == []


async def test_a_request_runs_to_its_end_under_the_policy_it_began_with(stage: Any) -> None:
    scene = stage(fast=says("a", "b"))
    answer = await scene.pipeline.answer(scene.query(stream=True))
    scene.pipeline._policies.current = stage(other=says("x")).policy
    await scene.read(answer)
    await answer.aclose()
    assert scene.decision.target == "fast"
    sent = await scene.send(model="fast")
    assert sent.error.code == "model_not_found"


LINES = st.sampled_from(
    [
        says(GOOD, confidence=0.9),
        says('{"n"', ": 2}", confidence=0.9),
        says(BAD, confidence=0.9),
        says("prose", confidence=0.1),
        fails(),
        fails(Overloaded("full")),
        fails(NotResident("cold")),
        fails(Refused("no")),
        fails(InvalidOutput("x"), "a"),
        fails(UpstreamError("x"), '{"n": '),
        says(extra={"content": None, "refusal": "no"}),
    ]
)


@given(lines=st.tuples(LINES, LINES, LINES), stream=st.booleans(), schema=st.booleans(), private=st.booleans())
async def test_whatever_the_targets_do_there_is_exactly_one_answer(
    stage: Any, lines: tuple[Any, Any, Any], stream: bool, schema: bool, private: bool
) -> None:
    """One decision, at most one call per target, every permit handed back, and nothing invalid behind a schema."""
    given_lines = dict(zip(("fast", "careful", "quality"), lines, strict=True))
    scene = stage(**given_lines, route={"min_confidence": 0.8}, **SAME_SERVER)
    body: dict[str, Any] = {"response_format": SCHEMA} if schema else {}
    sent = await scene.send(stream=stream, metadata={"private": private}, **body)
    decision = scene.decision
    assert all(len(target.calls) <= 1 for target in scene.targets.values())
    assert _in_flight(scene) == 0
    assert not (private and scene.targets["quality"].calls)
    assert (sent.error is None and sent.broken is None) == (decision.outcome is Outcome.OK)
    if schema and decision.outcome is Outcome.OK and b"refusal" not in b"".join(sent.data):
        assert sent.text in (GOOD, '{"n": 2}')
    if decision.outcome is Outcome.OK:
        assert decision.attempts[-1].target == decision.target
        assert decision.attempts[-1].outcome == "ok"


def _hang(scene: Any) -> Any:
    """The deadline of a call is real time, what is left of it is the scene's: let both pass."""

    async def sleep(_: float) -> None:
        scene.clock.time_s += 5
        await asyncio.sleep(5)

    return sleep


def _in_flight(scene: Any) -> int:
    return sum(scene.state._in_flight.values())
