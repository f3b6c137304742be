"""Who is asked before the gateway gives up."""

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.enums import Reason
from gateway.reliability.last_resort import last_resorts, worth_waiting
from gateway.types import Candidate, Verdict

VERDICTS = st.builds(Verdict, reason=st.sampled_from(list(Reason)), is_full=st.booleans(), is_slow=st.booleans()).map(
    lambda each: each if each.reason is Reason.OVERLOADED else Verdict(reason=each.reason)
)
SKIPS = st.lists(st.tuples(st.sampled_from(["fast", "quality", "third"]), VERDICTS), max_size=8)


def is_slow(verdict: Verdict) -> bool:
    return verdict.reason is Reason.P95_BREACH or verdict.is_slow


@given(skips=SKIPS)
def test_only_candidates_that_were_skipped_for_nothing_but_their_latency_are_asked_again(
    skips: list[tuple[str, Verdict]], target: Callable[..., Any]
) -> None:
    skipped = [(Candidate(route="r", target=target(name)), verdict) for name, verdict in skips]
    found = [each.target.name for each in last_resorts(skipped)]
    expected = [
        name
        for name in dict.fromkeys(name for name, _ in skips)
        if all(is_slow(verdict) for other, verdict in skips if other == name)
    ]
    assert sorted(found) == sorted(expected)
    assert found == list(dict.fromkeys(name for name, verdict in skips if name in found))  # in the policy's order


@given(skips=SKIPS)
def test_only_candidates_that_were_full_at_last_are_waited_for(
    skips: list[tuple[str, Verdict]], target: Callable[..., Any]
) -> None:
    skipped = [(Candidate(route="r", target=target(name)), verdict) for name, verdict in skips]
    assert {each.target.name for each in worth_waiting(skipped)} == {
        name for name, verdict in dict(skips).items() if verdict.is_full
    }


def test_a_breaker_that_is_open_is_no_last_resort(target: Callable[..., Any]) -> None:
    lane = Candidate(route="r", target=target("fast"))
    for reason in (Reason.CIRCUIT_OPEN, Reason.UPSTREAM_ERROR, Reason.NOT_RESIDENT, Reason.DEADLINE):
        assert last_resorts([(lane, Verdict(reason=reason))]) == ()
        assert last_resorts([(lane, Verdict(reason=Reason.P95_BREACH)), (lane, Verdict(reason=reason))]) == ()
    assert last_resorts([(lane, Verdict(reason=Reason.P95_BREACH))]) == (lane,)
