"""Response validation of a route: buffering, incremental validation, repair, and errors sent to the fallback."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.enums import Buffer, Outcome, SchemaCheck
from gateway.errors import InvalidOutput
from gateway.policy_types import Checks
from gateway.upstreams.scripted import fails, says

pytestmark = pytest.mark.anyio
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "x",
        "schema": {
            "type": "object",
            "properties": {"n": {"type": "integer"}, "s": {"type": "string"}},
            "required": ["n"],
        },
    },
}
GOOD = says('{"n": 1}')
LONG = ('{"s": "' + "x" * 40, 'y", "n": ', "7", "}")
LATE = ('{"s": "' + "x" * 40, 'y", "n": ', '"7"', "}")
FIRST = {"checks": Checks(buffer=Buffer.FIRST_BYTES, first_bytes=20)}
NONE = {"checks": Checks(buffer=Buffer.NONE)}
REPAIR = {"checks": Checks(repair=True)}


@pytest.mark.parametrize("route", [FIRST, NONE])
async def test_a_stream_leaves_before_its_end_and_is_found_valid_at_it(stage: Any, route: Any) -> None:
    scene = stage(fast=says(*LONG), quality=GOOD, route=route)
    sent = await scene.send(stream=True, response_format=SCHEMA)
    assert sent.text == "".join(LONG)
    assert sent.headers.schema_check is None  # not known yet when the headers were sent
    assert scene.decision.schema_check is SchemaCheck.VALID


async def test_of_a_stream_the_first_bytes_are_held(stage: Any) -> None:
    """The second chunk completes the first twenty bytes; nothing is sent before, and nothing waits for more."""
    scene = stage(fast=says('{"s": "abc', "defghijklm", '", "n": 1}', between_s=1.0), quality=GOOD, route=FIRST)
    answer = await scene.pipeline.handle(scene.query(stream=True, response_format=SCHEMA))
    assert scene.clock.now_s() == 1002.0
    await scene.read(answer)
    await answer.aclose()


@pytest.mark.parametrize("route", [FIRST, NONE])
async def test_a_fault_among_the_first_bytes_falls_back(stage: Any, route: Any) -> None:
    scene = stage(fast=says('{"n": true', " "), quality=GOOD, route=route)
    sent = await scene.send(stream=True, response_format=SCHEMA)
    assert (sent.text, scene.attempts) == ('{"n": 1}', {"fast": "invalid_output", "quality": "ok"})


@pytest.mark.parametrize("route", [FIRST, NONE])
async def test_a_fault_behind_them_ends_the_stream_with_an_error_and_the_faulty_piece_never_leaves(
    stage: Any, route: Any
) -> None:
    scene = stage(fast=says(*LATE), quality=GOOD, route=route)
    sent = await scene.send(stream=True, response_format=SCHEMA)
    assert isinstance(sent.broken, InvalidOutput)
    assert sent.text == "".join(LATE[:2])
    assert scene.decision.outcome is Outcome.ERROR
    assert scene.decision.attempts[-1].detail == "type at #/properties/*, byte 56"
    assert scene.decision.schema_check is None


async def test_what_only_the_end_can_tell_is_told_at_the_end(stage: Any) -> None:
    scene = stage(fast=says('{"s": "' + "x" * 40, '"'), quality=GOOD, route=FIRST)
    sent = await scene.send(stream=True, response_format=SCHEMA)
    assert isinstance(sent.broken, InvalidOutput)
    assert scene.decision.attempts[-1].detail == "json at its end"


async def test_a_stream_shorter_than_what_is_held_is_judged_whole(stage: Any) -> None:
    scene = stage(fast=says('{"s": "x"', "}"), quality=GOOD, route=FIRST)
    sent = await scene.send(stream=True, response_format=SCHEMA)
    assert (sent.text, scene.attempts) == ('{"n": 1}', {"fast": "invalid_output", "quality": "ok"})
    assert sent.headers.schema_check is SchemaCheck.VALID


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("texts", [('{"n": 1', ""), ('{"n"', ": 1,}"), ("```json\n", '{"n": 1}', "\n```")])
async def test_unclosed_syntax_is_closed_where_the_route_says_so_and_that_is_told(
    stage: Any, stream: bool, texts: Any
) -> None:
    scene = stage(fast=says(*texts), quality=GOOD, route=REPAIR)
    sent = await scene.send(stream=stream, response_format=SCHEMA)
    assert (sent.text, scene.attempts) == ('{"n": 1}', {"fast": "ok"})
    assert sent.headers.schema_check is SchemaCheck.REPAIRED
    assert scene.decision.schema_check is SchemaCheck.REPAIRED


async def test_without_that_word_nothing_is_repaired(stage: Any) -> None:
    scene = stage(fast=says('{"n": 1'), quality=GOOD)
    await scene.send(response_format=SCHEMA)
    assert scene.attempts == {"fast": "invalid_output", "quality": "ok"}


async def test_a_repaired_answer_must_be_good_as_well(stage: Any) -> None:
    scene = stage(fast=says('{"n": "1"'), quality=GOOD, route=REPAIR)
    await scene.send(response_format=SCHEMA)
    assert scene.attempts == {"fast": "invalid_output", "quality": "ok"}
    assert scene.decision.attempts[0].detail == "type at #/properties/*, byte 6"
    assert scene.decision.schema_check is SchemaCheck.VALID


async def test_the_next_target_is_told_what_was_wrong_where_the_route_says_so(stage: Any) -> None:
    scene = stage(
        fast=says('{"n": "1"}'), careful=says("{"), quality=GOOD, route={"checks": Checks(send_error_to_fallback=True)}
    )
    await scene.send(response_format=SCHEMA)
    told = [scene.targets[name].calls[0].validation_error for name in ("fast", "careful", "quality")]
    assert told == [None, "type at #/properties/n, byte 6", "json at its end"]


async def test_otherwise_it_is_not_told(stage: Any) -> None:
    scene = stage(fast=says("{"), quality=GOOD)
    await scene.send(response_format=SCHEMA)
    assert scene.targets["quality"].calls[0].validation_error is None


async def test_only_answers_are_rejected_not_faults(stage: Any) -> None:
    scene = stage(fast=fails(), quality=GOOD, route={"checks": Checks(send_error_to_fallback=True)})
    await scene.send(response_format=SCHEMA)
    assert scene.targets["quality"].calls[0].validation_error is None


texts = st.sampled_from(['{"n": 1}', '{"n": 1', '{"n": "é"}', "```\n{}\n```", '{"n": 2,}'])


@given(texts, st.lists(st.integers(0, 12), max_size=4), st.sampled_from([REPAIR, {}]))
def test_held_whole_a_stream_is_served_exactly_if_the_whole_answer_would_be(
    stage: Any, text: str, cuts: list[int], route: Any
) -> None:
    ordered = sorted(min(cut, len(text)) for cut in cuts)
    parts = [text[a:b] for a, b in zip([0, *ordered], [*ordered, len(text)], strict=True)]
    ends = []
    for stream in (False, True):
        scene = stage(fast=says(*parts), quality=GOOD, route=route)
        sent = asyncio.run(scene.send(stream=stream, response_format=SCHEMA))
        ends.append((sent.text, scene.attempts, scene.decision.attempts[0].detail, scene.decision.schema_check))
    assert ends[0] == ends[1]


async def test_an_answer_too_large_to_be_held_is_left_for_another(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk is small, and only this limit counts them."""
    monkeypatch.setattr("gateway.attempts.kept_deltas.MAX_BUFFERED_BYTES", 2000)
    scene = stage(fast=says('{"s": "', *["x" * 100] * 50, '"}'), quality=GOOD)
    sent = await scene.send(stream=True, response_format=SCHEMA)
    assert (sent.text, scene.attempts) == ('{"n": 1}', {"fast": "upstream_error", "quality": "ok"})
    assert scene.decision.attempts[0].detail == "answer too large"
    assert scene.targets["fast"].left == 1
