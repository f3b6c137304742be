"""Daily budgets of keys: what was spent by UTC day, here and by other replicas."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from gateway.policy_types import Limit
from gateway.reliability.daily_budgets import DAY_S, DailyBudgets, Spent

NOON_S = datetime(2026, 11, 29, 12, tzinfo=UTC).timestamp()
TOKENS = Limit(tokens_per_day=100)
DOLLARS = Limit(dollars_per_day=0.01)


def test_a_spent_budget_is_given_again_at_midnight_utc() -> None:
    budgets = DailyBudgets()
    budgets.add("ann", 100, 0.0, NOON_S)
    assert budgets.wait_s("ann", TOKENS, NOON_S) == DAY_S / 2
    assert budgets.wait_s("bob", TOKENS, NOON_S) == 0
    assert budgets.wait_s("ann", TOKENS, NOON_S + DAY_S / 2) == 0


def test_a_clock_that_is_set_back_gives_no_budget_again() -> None:
    budgets = DailyBudgets()
    budgets.add("ann", 100, 0.0, NOON_S)
    assert budgets.wait_s("ann", TOKENS, NOON_S - DAY_S) > 0


def test_small_costs_add_up_exactly() -> None:
    """A thousand requests at ten micro-dollars spend one cent; floats would end a little below it."""
    budgets = DailyBudgets()
    for _ in range(999):
        budgets.add("ann", 1, 0.00001, NOON_S)
    assert budgets.wait_s("ann", DOLLARS, NOON_S) == 0
    budgets.add("ann", 1, 0.00001, NOON_S)
    assert budgets.wait_s("ann", DOLLARS, NOON_S) > 0


def test_a_limit_without_a_daily_budget_asks_nobody() -> None:
    budgets, asked = DailyBudgets(), []
    budgets.on_activity = lambda: asked.append(1)
    assert budgets.wait_s("ann", Limit(requests_per_minute=1), NOON_S) == 0
    assert asked == []


def test_what_other_replicas_spent_counts_on_its_own_day_only() -> None:
    budgets = DailyBudgets()
    day = budgets.begin_day(NOON_S)
    budgets.add("ann", 40, 0.0, NOON_S)
    budgets.set_others(day - 1, "ann", Spent(60, 0))
    assert budgets.wait_s("ann", TOKENS, NOON_S) == 0
    budgets.set_others(day, "ann", Spent(60, 0))
    assert budgets.wait_s("ann", TOKENS, NOON_S) > 0


def test_an_exchange_that_failed_is_made_up_for() -> None:
    budgets = DailyBudgets()
    budgets.add("ann", 1, 0.0, NOON_S)
    budgets.wait_s("bob", TOKENS, NOON_S)
    day = budgets.day
    changed, asked = budgets.take_outgoing()
    assert (changed, asked) == ({"ann": Spent(1, 0)}, {"ann", "bob"})
    assert budgets.take_outgoing() == ({}, set())
    budgets.return_outgoing(day, changed, asked)
    budgets.add("ann", 1, 0.0, NOON_S)
    assert budgets.take_outgoing() == ({"ann": Spent(2, 0)}, {"ann", "bob"})
    budgets.return_outgoing(day - 1, changed, asked)
    assert budgets.take_outgoing() == ({}, set())


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), max_size=40))
def test_overspending_is_at_most_the_requests_in_flight(requests: list[tuple[int, int]]) -> None:
    """Each request starts if the budget allows it and ends after some later ones have started."""
    budgets, spent, in_flight, worst = DailyBudgets(), 0, [], 0
    for number, (tokens, ends_after) in enumerate(requests):
        for end, cost in [each for each in in_flight if each[0] <= number]:
            budgets.add("ann", cost, 0.0, NOON_S)
            spent += cost
            in_flight.remove((end, cost))
        if budgets.wait_s("ann", TOKENS, NOON_S) == 0:
            assert spent < 100
            in_flight.append((number + ends_after, tokens))
            worst = max(worst, sum(cost for _, cost in in_flight))
    spent += sum(cost for _, cost in in_flight)
    assert spent < 100 + worst
