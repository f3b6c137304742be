"""Extra attempts stay a share of ordinary ones, whatever the order of events."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.allowance import MOST_SAVED, Allowance


@given(share=st.floats(0, 0.5), events=st.lists(st.booleans(), max_size=300))
def test_extras_never_exceed_their_share_of_what_was_earned(share: float, events: list[bool]) -> None:
    allowance, earned, spent = Allowance(), 0, 0
    for is_ordinary in events:
        if is_ordinary:
            allowance.earn(share)
            earned += 1
        else:
            spent += allowance.spend()
        assert spent <= share * earned + 1e-6


def test_five_requests_at_a_fifth_pay_for_exactly_one_retry() -> None:
    allowance = Allowance()
    for _ in range(5):
        assert not allowance.spend()
        allowance.earn(0.2)
    assert [allowance.spend(), allowance.spend()] == [True, False]


def test_a_long_quiet_time_saves_only_so_much() -> None:
    allowance = Allowance()
    for _ in range(10_000):
        allowance.earn(0.2)
    assert sum(allowance.spend() for _ in range(100)) == MOST_SAVED
