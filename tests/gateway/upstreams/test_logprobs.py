"""Confidence from log-probabilities: the eight least likely tokens of the least sure choice."""

import math

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.types import Delta
from gateway.upstreams.logprobs import confidence_of, without_logprobs
from gateway.upstreams.parse_response import read_delta

LOGPROBS = st.lists(st.floats(-50.0, 0.0), min_size=1, max_size=40)
ANY_NUMBERS = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40)


def delta(*logprobs: float, index: int = 0, **choice: object) -> Delta:
    content = [{"token": "a", "logprob": each, "bytes": [97], "top_logprobs": []} for each in logprobs]
    return Delta(data=orjson.dumps({"choices": [{"index": index, "logprobs": {"content": content}, **choice}]}))


@given(LOGPROBS)
def test_it_is_the_geometric_mean_of_the_eight_least_likely_tokens(logprobs: list[float]) -> None:
    found = confidence_of([delta(*logprobs)])
    assert found is not None
    assert math.isclose(found, math.exp(sum(weakest := sorted(logprobs)[:8]) / len(weakest)))


def test_a_short_answer_is_no_surer_than_its_tokens() -> None:
    found = confidence_of([delta(math.log(0.2))])
    assert found is not None
    assert math.isclose(found, 0.2)


@given(st.lists(st.floats(-50.0, 0.0), min_size=8, max_size=40), st.floats(-50.0, 0.0))
def test_beyond_eight_tokens_a_further_one_never_raises_it(logprobs: list[float], further: float) -> None:
    before, after = confidence_of([delta(*logprobs)]), confidence_of([delta(*logprobs, further)])
    assert before is not None
    assert after is not None
    assert after <= before


@given(LOGPROBS)
def test_a_stream_has_the_confidence_of_the_whole_answer(logprobs: list[float]) -> None:
    assert confidence_of(delta(each) for each in logprobs) == confidence_of([delta(*logprobs)])


@given(ANY_NUMBERS)
@example([-1.7e308] * 8)
@example([5.0, -5.0])
def test_numbers_that_are_no_log_probabilities_make_no_answer_surer(logprobs: list[float]) -> None:
    """A positive one counts as certain. The sum of several may be out of range."""
    assert confidence_of([delta(*logprobs)]) == confidence_of([delta(*(min(0.0, each) for each in logprobs))])
    assert confidence_of([delta(0.0, *logprobs)]) is not None


def test_of_several_choices_the_least_sure_counts() -> None:
    assert confidence_of([delta(-0.1), delta(-9.0, index=1)]) == confidence_of([delta(-9.0)])


def test_an_answer_without_them_has_none() -> None:
    nothing = [b'{"choices":[{"index":0,"logprobs":null}]}', b'{"choices":[]}', b'{"usage":{}}', b"\xff", b"[]"]
    assert confidence_of(Delta(data=each) for each in nothing) is None
    assert confidence_of([Delta(data=b'{"choices":[{"logprobs":{"content":[{"logprob":"-1"}]}}]}')]) is None


def test_removing_them_leaves_everything_else_as_it_was() -> None:
    odd = b'{"id":9007199254740993,"choices":[{"index":0,"message":{"content":"\\u00e9"},"logprobs":{"content":[]}}]}'
    (cleared,) = without_logprobs([Delta(data=odd)])
    assert orjson.loads(cleared.data) == orjson.loads(odd) | {
        "choices": [{"index": 0, "message": {"content": "é"}, "logprobs": None}]
    }
    plain = Delta(data=b'{"choices":[{"index":0,"message":{"content":"x"}}]}')
    assert without_logprobs([plain]) == [plain]


def test_tokens_whose_log_probabilities_are_null_say_nothing() -> None:
    """Some servers send `-Infinity`, which is read as null."""
    content = {"content": [{"token": "a", "logprob": None}]}
    unknown = Delta(data=orjson.dumps({"choices": [{"index": 0, "logprobs": content}]}))
    assert confidence_of([unknown]) is None
    assert confidence_of([unknown, delta(-8.0)]) == math.exp(-8)


def test_an_answer_without_tokens_has_none() -> None:
    """It would be certain as the mean of nothing. The last chunks of a stream have no tokens, either."""
    assert confidence_of([delta()]) is None
    assert confidence_of([delta(-8.0), delta()]) == math.exp(-8)


@pytest.mark.parametrize("logprobs", ["null", '{"content":[]}', '{"content":null}', '{"content":[{"logprob":"-1"}]}'])
def test_every_choice_must_have_them(logprobs: str) -> None:
    sure = '{"index":0,"message":{"content":"a"},"logprobs":{"content":[{"logprob":0.0}]}}'
    other = f'{{"index":1,"message":{{"content":"b"}},"logprobs":{logprobs}}}'
    whole = read_delta(f'{{"choices":[{sure},{other}]}}'.encode())
    stream = [read_delta(f'{{"choices":[{choice}]}}'.replace("message", "delta").encode()) for choice in (sure, other)]
    assert confidence_of([whole]) is None
    assert confidence_of(stream) is None
    assert confidence_of(stream[:1]) == 1.0


def test_a_response_that_cannot_be_written_again_keeps_them() -> None:
    odd = Delta(data=b'{"choices":[{"index":0,"logprobs":{"content":[]}}],"created":1e400}')
    assert without_logprobs([odd]) == [odd]
