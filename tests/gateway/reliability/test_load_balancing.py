"""Load balancing: the least loaded endpoint, the preferred one for a prefix, unavailable ones last."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from gateway.enums import BreakerState, Residency
from gateway.reliability.load_balancing import pick_endpoint
from gateway.types import Candidate, Health, Query, Status, Target

MakeQuery = Callable[..., Query]
URLS = ("http://a", "http://b", "http://c")


@pytest.fixture(name="candidate")
def make_candidate(target: Callable[..., Target]) -> Candidate:
    endpoints = tuple(target(f"fast/{n}", url=url, pool="fast", max_in_flight=8) for n, url in enumerate(URLS, 1))
    whole = Candidate(route="r", target=target("fast", url=URLS[0], endpoints=endpoints))
    return replace(whole, per_endpoint=tuple(replace(whole, target=endpoint) for endpoint in endpoints))


def healths(**healths: Health) -> Callable[[Candidate], Health]:
    return lambda candidate: healths.get(candidate.target.url.removeprefix("http://"), Health())


def waiting(milliseconds: float) -> Health:
    return Health(status=Status(residency=Residency.READY, predicted_wait_ms=milliseconds))


def picked(candidate: Candidate, query: Query, health_of: Callable[[Candidate], Health], **more: object) -> str:
    return pick_endpoint(candidate, query, health_of, **more).target.url.removeprefix("http://")  # type: ignore[arg-type]


def test_prompts_with_the_same_prefix_go_to_the_same_endpoint_and_others_are_spread(
    candidate: Candidate, query: MakeQuery
) -> None:
    picks = [picked(candidate, query(prefix_text=f"conversation {n}"), healths()) for n in range(300)]
    assert picks == [picked(candidate, query(prefix_text=f"conversation {n}"), healths()) for n in range(300)]
    assert min(Counter(picks).values()) > 60


def test_an_endpoint_that_is_gone_moves_only_its_own_prompts(candidate: Candidate, query: MakeQuery) -> None:
    queries = [query(prefix_text=f"conversation {n}") for n in range(100)]
    gone = healths(b=Health(status=Status(residency=Residency.UNREACHABLE)))
    for each in queries:
        before, after = picked(candidate, each, healths()), picked(candidate, each, gone)
        assert after != "b"
        assert before in ("b", after)


def test_another_endpoint_is_picked_if_the_preferred_one_has_a_much_longer_wait(
    candidate: Candidate, query: MakeQuery
) -> None:
    preferred = picked(candidate, query(), healths())
    others = [name for name in "abc" if name != preferred]
    assert picked(candidate, query(), healths(**{preferred: waiting(40)})) == preferred  # a repeated prefill costs more
    assert picked(candidate, query(), healths(**{preferred: waiting(500), others[0]: waiting(300)})) == others[1]


def test_without_predicted_waits_requests_in_flight_decide(candidate: Candidate, query: MakeQuery) -> None:
    preferred = picked(candidate, query(), healths())
    assert picked(candidate, query(), healths(**{preferred: Health(in_flight=1)})) == preferred
    assert picked(candidate, query(), healths(**{preferred: Health(in_flight=3)})) != preferred


@pytest.mark.parametrize(
    "ill",
    [
        Health(breaker=BreakerState.OPEN),
        Health(in_flight=8),
        Health(status=Status(residency=Residency.UNREACHABLE)),
        Health(status=Status(residency=Residency.LOADING)),
    ],
)
def test_an_endpoint_that_is_not_admitted_is_not_picked(candidate: Candidate, query: MakeQuery, ill: Health) -> None:
    assert picked(candidate, query(), healths(a=ill, b=ill)) == "c"
    assert picked(candidate, query(), healths(a=ill, b=ill, c=ill)) in "abc"  # admission says why


def test_the_endpoint_that_just_failed_is_avoided_while_there_is_another(
    candidate: Candidate, query: MakeQuery
) -> None:
    assert picked(candidate, query(), healths(), avoid={"http://a", "http://c"}) == "b"


def test_a_target_with_one_server_is_returned_unchanged(target: Callable[..., Target], query: MakeQuery) -> None:
    alone = Candidate(route="r", target=target())
    assert pick_endpoint(alone, query(), healths()) is alone
