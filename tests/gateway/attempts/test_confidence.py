"""Which answers have a gate, and what is asked of a target for it."""

from collections.abc import Callable

import orjson
import pytest

from gateway.attempts.answer_content import has_blank_choice
from gateway.attempts.confidence import check_confidence, minimum_of, needs_logprobs
from gateway.beyond_chat import BeyondChat, Prompt
from gateway.enums import Capability, Kind, TargetApi
from gateway.errors import LowConfidence
from gateway.routing.engine_profiles import ENGINES
from gateway.types import Call, Candidate, Capabilities, Query, Target
from gateway.upstreams.parse_response import read_delta
from gateway.upstreams.request_body import body_for

MakeQuery = Callable[..., Query]
MakeTarget = Callable[..., Target]


def gated(target: Target) -> Candidate:
    return Candidate(route="r", target=target, min_confidence=0.8)


@pytest.mark.parametrize("api", [TargetApi.EMBEDDINGS, TargetApi.DECISIONS])
def test_embeddings_and_decisions_have_no_gate_as_a_whole(query: MakeQuery, target: MakeTarget, api: TargetApi) -> None:
    candidate = gated(target(kind=Kind.OPENAI, capabilities=ENGINES["vllm"]))
    other = query(beyond_chat=BeyondChat(api=api))
    assert (minimum_of(candidate, other), needs_logprobs(candidate, other)) == (None, False)
    assert (minimum_of(candidate, query()), needs_logprobs(candidate, query())) == (0.8, True)


def test_a_target_with_decisions_alone_has_no_gate_for_its_texts(query: MakeQuery, target: MakeTarget) -> None:
    server = target(kind=Kind.OPENAI, capabilities=Capabilities(supported=frozenset({Capability.DECISIONS})))
    assert minimum_of(gated(server), query()) is None


@pytest.mark.parametrize("kind", [Kind.WORKER, Kind.SCRIPTED])
def test_a_target_that_reports_a_confidence_need_not_report_log_probabilities(
    query: MakeQuery, target: MakeTarget, kind: Kind
) -> None:
    assert not needs_logprobs(gated(target(kind=kind)), query())


def test_log_probabilities_are_requested_in_the_form_of_the_targets_api(query: MakeQuery, target: MakeTarget) -> None:
    """Text completions count the alternatives to each token; none are needed."""
    server = target(kind=Kind.OPENAI, capabilities=ENGINES["vllm"])
    chat = Call(target=server, query=query(body=b'{"messages":[]}'), wants_logprobs=True)
    text = query(
        body=b'{"prompt":"a","messages":[]}',
        beyond_chat=BeyondChat(api=TargetApi.COMPLETIONS, prompts=(Prompt(text="a"),)),
    )
    completion = Call(target=server, query=text, wants_logprobs=True)
    assert orjson.loads(body_for(chat, ENGINES["vllm"]))["logprobs"] is True
    sent = orjson.loads(body_for(completion, ENGINES["vllm"]))
    assert (sent["prompt"], sent["logprobs"]) == ("a", 0)


@pytest.mark.parametrize(("second", "passes"), [("x", True), (" ", False)])
def test_every_choice_must_say_something(query: MakeQuery, second: str, passes: bool) -> None:
    choices = [{"index": i, "message": {"content": text}} for i, text in enumerate(["x", second])]
    deltas = [read_delta(orjson.dumps({"choices": choices}))]
    if passes:
        check_confidence(0.8, 0.9, deltas, query())
    else:
        with pytest.raises(LowConfidence, match="blank"):
            check_confidence(0.8, 0.9, deltas, query())


@pytest.mark.parametrize(("said", "is_blank"), [("", True), ("\u200b", True), ("so", False)])
def test_a_stream_of_reasoning_is_blank_unless_a_text_follows(said: str, is_blank: bool) -> None:
    chunks = [{"reasoning_content": "Let me think."}, {"content": said}]
    deltas = [read_delta(orjson.dumps({"choices": [{"index": 0, "delta": each}]})) for each in chunks]
    assert has_blank_choice(deltas) is is_blank
