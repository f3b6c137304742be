"""The pipeline, branch by branch, over scripted targets and a manual clock."""

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.enums import Outcome, Reason, Residency
from gateway.errors import (
    AttemptFailed,
    InvalidOutput,
    NotResident,
    Overloaded,
    Refused,
    Unsupported,
    UpstreamError,
)
from gateway.policy_types import Slo
from gateway.types import Status
from gateway.upstreams.scripted import fails, says
from tests.gateway.stage import in_flight

pytestmark = pytest.mark.anyio
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "order",
        "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    },
}
GOOD, BAD = '{"n": 1}', '{"m": 1}'
SAME_SERVER = {"careful_target": {"url": "http://fast"}}
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


async def test_the_first_candidate_serves_the_request_if_it_succeeds(stage: Any) -> None:
    scene = stage(fast=says("hi"), quality=says("no"))
    sent = await scene.send()
    assert sent.text == "hi"
    assert scene.attempts == {"fast": "ok"}
    assert (scene.decision.target, scene.decision.outcome, scene.decision.fallback) == ("fast", Outcome.OK, None)
    assert scene.targets["quality"].calls == []


async def test_an_error_of_the_first_attempt_leaves_the_hedge_to_win(stage: Any) -> None:
    scene = stage(fast=fails(), quality=says("hi"))
    sent = await scene.send()
    assert sent.text == "hi"
    assert scene.attempts == {"fast": "upstream_error", "quality": "ok"}
    assert scene.decision.fallback is Reason.UPSTREAM_ERROR


@pytest.mark.parametrize("fault", [UpstreamError("gone"), Overloaded("full"), NotResident("cold")])
async def test_a_server_that_failed_is_not_asked_again_under_another_name(stage: Any, fault: AttemptFailed) -> None:
    scene = stage(fast=fails(fault), careful=says("no"), quality=says("hi"), **SAME_SERVER)
    await scene.send()
    assert scene.attempts == {"fast": str(fault.reason), "careful": str(fault.reason), "quality": "ok"}
    assert scene.targets["careful"].calls == []
    assert scene.decision.attempts[1].skipped


async def test_an_invalid_response_may_fall_back_to_another_target_on_the_same_server(stage: Any) -> None:
    scene = stage(fast=says(BAD), careful=says(GOOD), quality=says("no"), **SAME_SERVER)
    await scene.send(response_format=SCHEMA)
    assert scene.attempts == {"fast": "invalid_output", "careful": "ok"}


async def test_when_no_candidate_is_left_a_fault_that_may_pass_is_reported_before_an_invalid_output(stage: Any) -> None:
    scene = stage(fast=fails(), quality=says(BAD))
    sent = await scene.send(response_format=SCHEMA)
    assert (sent.error.status, sent.error.code, sent.error.retryable) == (502, "upstream_error", True)
    assert scene.decision.outcome is Outcome.ERROR
    assert scene.decision.target is None
    assert scene.attempts == {"fast": "upstream_error", "quality": "invalid_output"}


async def test_the_message_of_a_target_that_rejects_the_request_reaches_the_client_if_no_other_succeeds(
    stage: Any,
) -> None:
    told = Refused("'max_tokens' is too large.", status=400, code="invalid_value", param="max_tokens")
    scene = stage(fast=fails(Unsupported("no seeds here")), quality=fails(told))
    sent = await scene.send()
    assert (sent.error.status, sent.error.code, sent.error.param) == (400, "invalid_value", "max_tokens")
    assert scene.attempts == {"fast": "unsupported", "quality": "refused"}


async def test_a_refusal_is_served_only_if_no_other_target_is_left(stage: Any) -> None:
    declines = says(extra={"content": None, "refusal": "I would rather not."})
    scene = stage(fast=declines, quality=declines)
    sent = await scene.send()
    assert scene.attempts == {"fast": "refused", "quality": "ok"}
    assert b"I would rather not." in sent.data[0]


async def test_a_private_request_stays_in_the_cluster(stage: Any) -> None:
    scene = stage(fast=fails(), quality=says("no"))
    sent = await scene.send(headers={b"x-twolane-private": b"true"})
    assert (sent.error.status, sent.error.code) == (503, "no_private_target")
    assert scene.targets["quality"].calls == []
    assert scene.decision.private


async def test_an_invalid_private_request_gets_its_own_error(stage: Any) -> None:
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


async def test_a_request_that_names_a_target_tries_no_other(stage: Any) -> None:
    scene = stage(fast=fails(), quality=says("hi"))
    sent = await scene.send(model="fast")
    assert sent.error.code == "upstream_error"
    assert scene.decision.route == "direct"
    assert scene.targets["quality"].calls == []


async def test_an_internal_error_has_a_decision_too_and_leaves_nothing_in_flight(stage: Any) -> None:
    scene = stage(fast=fails(cast("AttemptFailed", ZeroDivisionError())))
    with pytest.raises(ZeroDivisionError):
        await scene.send()
    assert (scene.decision.outcome, scene.attempts) == (Outcome.ERROR, {"fast": "cancelled"})


async def test_explain_makes_no_calls_and_has_no_side_effects(stage: Any, tight_slo: Slo) -> None:
    scene = stage(fast=says("no"), quality=says("no"), route={"slo": tight_slo})
    scene.targets["fast"].status = Status(residency=Residency.COLD)
    decision, looks = scene.pipeline.explain(scene.query())
    assert decision.route == "main"
    assert [(c.target.name, v.reason) for c, _, v in looks] == [("fast", Reason.NOT_RESIDENT), ("quality", None)]
    assert not any(target.calls for target in scene.targets.values())
    assert scene.listener.decisions == []


async def test_a_request_keeps_the_policy_that_it_started_with(stage: Any) -> None:
    scene = stage(fast=says("a", "b"))
    answer = await scene.pipeline.handle(scene.query(stream=True))
    scene.pipeline._policies.current = stage(other=says("x")).policy
    await scene.read(answer)
    await answer.aclose()
    assert scene.decision.target == "fast"
    sent = await scene.send(model="fast")
    assert sent.error.code == "model_not_found"


@given(lines=st.tuples(LINES, LINES, LINES), stream=st.booleans(), schema=st.booleans(), private=st.booleans())
async def test_whatever_the_targets_do_there_is_exactly_one_response(
    stage: Any, lines: tuple[Any, Any, Any], stream: bool, schema: bool, private: bool
) -> None:
    """One decision, at most one call per target, every permit released, and no invalid output for a schema."""
    given_lines = dict(zip(("fast", "careful", "quality"), lines, strict=True))
    scene = stage(**given_lines, route={"min_confidence": 0.8}, **SAME_SERVER)
    body: dict[str, Any] = {"response_format": SCHEMA} if schema else {}
    sent = await scene.send(stream=stream, metadata={"private": private}, **body)
    decision = scene.decision
    assert all(len(target.calls) <= 1 for target in scene.targets.values())
    assert in_flight(scene) == 0
    assert not (private and scene.targets["quality"].calls)
    assert (sent.error is None and sent.broken is None) == (decision.outcome is Outcome.OK)
    if schema and decision.outcome is Outcome.OK and b"refusal" not in b"".join(sent.data):
        assert sent.text in (GOOD, '{"n": 2}')
    if decision.outcome is Outcome.OK:
        assert decision.attempts[-1].target == decision.target
        assert decision.attempts[-1].outcome == "ok"
