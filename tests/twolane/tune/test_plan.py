"""Which settings are tried, kept and chosen."""

from hypothesis import given
from hypothesis import strategies as st

from twolane.tune.plan import KEPT, Knobs, Trial, candidates, choose, front, last_of_each, survivors

CHOICES = {"steps": (4, 8), "entropy_bound": (0.1, 1.0, 3.0), "max_num_seqs": (1, 2)}


def trial(p95_ms: float, quality: float, *, seconds: float = 1.0, **knobs: float) -> Trial:
    return Trial(
        knobs=Knobs(**knobs),  # type: ignore[arg-type]
        seconds=seconds,
        sent=10,
        p50_ms=p95_ms / 2,
        p95_ms=p95_ms,
        quality=quality,
        memory_bytes=0,
        errors={},
    )


TRIALS = st.lists(
    st.builds(lambda p95, quality, steps: trial(p95, quality, steps=steps),
              st.floats(1, 1e4), st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.integers(1, 9)),
    min_size=1, max_size=20,
)  # fmt: skip


@given(TRIALS)
def test_nothing_on_the_front_is_beaten_and_whatever_is_off_it_is_beaten_from_there(
    trials: list[Trial],
) -> None:
    best = front(trials)
    assert best
    assert [one.p95_ms for one in best] == sorted(one.p95_ms for one in best)
    for one in trials:
        assert (one in best) != any(other.dominates(one) for other in best)


@given(TRIALS)
def test_a_third_goes_on_with_the_worker_as_it_is_and_the_fastest_of_the_front(trials: list[Trial]) -> None:
    going_on = survivors(trials)
    assert going_on[0] == Knobs()
    assert len(going_on) == 1 + max(1, len(trials) // KEPT)
    assert front(trials)[0].knobs in going_on


@given(st.integers(2, 40), st.integers(0, 5))
def test_candidates_begin_with_the_worker_as_it_is_and_a_seed_repeats_them(most: int, seed: int) -> None:
    tried = candidates(CHOICES, most, seed)
    assert tried[0] == Knobs()
    assert len(set(tried)) == len(tried) <= most
    assert tried == candidates(CHOICES, most, seed)
    assert all(one.turned.keys() <= CHOICES.keys() for one in tried)


def test_chosen_is_the_fastest_that_is_about_as_good_as_the_worker_is_now() -> None:
    own, quick, poor = trial(100, 0.95), trial(60, 0.945, steps=8), trial(20, 0.5, steps=4)
    assert choose([own, quick, poor], loss=0.01, p95_ms=None) is quick
    assert choose([own, quick, poor], loss=0.001, p95_ms=None) is own
    assert choose([own, quick, poor], loss=0.01, p95_ms=50) is poor  # better a poor answer in time than none
    assert choose([own, quick, poor], loss=0.01, p95_ms=10) is None
    assert choose([trial(float("inf"), 0.0)], loss=0.01, p95_ms=None) is None


def test_a_short_trial_is_not_chosen_over_those_that_stood_a_longer_one() -> None:
    lucky, own = trial(10, 1.0, steps=4), trial(100, 0.9, seconds=9.0)
    assert choose([lucky, own], loss=0.0, p95_ms=None) is own
    again = trial(70, 0.9, steps=4, seconds=9.0)
    assert set(map(id, last_of_each([lucky, own, again]))) == {id(own), id(again)}
