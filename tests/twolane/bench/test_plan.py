"""A load is scheduled before it starts; an invalid line of the prompt file is reported with its number."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twolane.bench.plan import Prompt, constant, poisson, read_prompts, replay, schedule
from twolane.process.flags import WrongUseError

LOGGED = {"time": "2026-01-01T00:00:0{}.000Z", "attempts": [], "input_tokens": 7, "output_tokens": 3}


def prompts_of(folder: Path, *lines: object) -> tuple[Prompt, ...]:
    file = folder / "prompts.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return read_prompts(file)


def test_a_chat_body_is_sent_unchanged(tmp_path: Path) -> None:
    (one,) = prompts_of(tmp_path, {"messages": [{"role": "user", "content": "hi"}], "seed": 3, "expect": "ho"})
    assert one.body == {"messages": [{"role": "user", "content": "hi"}], "seed": 3}
    assert one.expect == "ho"
    assert one.schema is None


def test_a_schema_becomes_the_response_format(tmp_path: Path) -> None:
    (one,) = prompts_of(tmp_path, {"prompt": "hi", "schema": {"type": "object"}})
    assert one.schema == {"type": "object"}
    assert one.body["response_format"]["type"] == "json_schema"


def test_a_line_of_a_decision_log_keeps_its_time_and_its_sizes(tmp_path: Path) -> None:
    lines = [LOGGED | {"time": LOGGED["time"].format(second)} for second in (4, 2)]  # type: ignore[union-attr]
    later, sooner = prompts_of(tmp_path, *lines)
    assert (later.at_s, sooner.at_s) == (2.0, 0.0)
    assert len(later.body["messages"][0]["content"].split()) == 7
    assert later.body["max_tokens"] == 3
    assert [call.due_s for call in replay([later, sooner], faster=4.0)] == [0.0, 0.5]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "prompts.jsonl:1: not JSON"),
        ([], "prompts.jsonl:1: must be a JSON object"),
        ({"question": "hi"}, 'expected "messages"'),
        ({"prompt": "hi", "expects": "ho"}, "unknown key 'expects' .choose from expect, prompt, schema"),
        ({"prompt": "hi", "schema": 3}, "schema must be an object"),
        ({"prompt": "hi", "expect": 3}, "expect must be a string"),
        (LOGGED | {"time": "yesterday"}, "prompts.jsonl:1"),
        ("", "no prompts found"),
    ],
)
def test_an_invalid_line_is_reported(tmp_path: Path, line: object, says: str) -> None:
    with pytest.raises(WrongUseError, match=says):
        prompts_of(tmp_path, line)


def test_prompts_without_a_logged_time_cannot_be_replayed(tmp_path: Path) -> None:
    with pytest.raises(WrongUseError, match="decision log"):
        replay(prompts_of(tmp_path, {"prompt": "hi"}))


@given(st.floats(0.5, 200), st.floats(0.5, 20), st.integers(0, 9))
def test_arrivals_ascend_and_a_seed_reproduces_them(rate: float, seconds: float, seed: int) -> None:
    for arrivals in (poisson(rate, seconds, seed), constant(rate, seconds)):
        assert arrivals == sorted(arrivals)
        assert all(0.0 <= arrival <= seconds for arrival in arrivals)
    assert poisson(rate, seconds, seed) == poisson(rate, seconds, seed)


def test_poisson_arrivals_have_the_given_rate_and_exponential_gaps() -> None:
    arrivals = poisson(100.0, 100.0, 1)
    gaps = [later - sooner for sooner, later in itertools.pairwise(arrivals)]
    assert len(arrivals) == pytest.approx(10_000, rel=0.05)
    mean = sum(gaps) / len(gaps)
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.1)  # exponential


def test_every_prompt_is_used_equally_often() -> None:
    prompts = [Prompt(body={"n": number}) for number in range(5)]
    calls = schedule(constant(10, 1), prompts, seed=3)
    assert sorted(call.prompt.body["n"] for call in calls) == sorted([0, 1, 2, 3, 4] * 2)
