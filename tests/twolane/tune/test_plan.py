"""The search tries, promotes and chooses parameters."""

from hypothesis import given
from hypothesis import strategies as st

from twolane.tune.plan import (
    DEFAULTS,
    PROMOTION,
    Parameters,
    Trial,
    candidates,
    choose,
    longest_of_each,
    pareto_front,
    promoted,
)

GRID = {"steps": (4, 8), "entropy_bound": (0.1, 1.0, 3.0), "max_num_seqs": (1, 2)}


def trial(p95_ms: float, quality: float, *, seconds: float = 1.0, **parameters: float) -> Trial:
    return Trial(
        parameters=Parameters(**parameters),  # type: ignore[arg-type]
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
def test_the_pareto_front_holds_exactly_the_trials_that_none_dominates(
    trials: list[Trial],
) -> None:
    best = pareto_front(trials)
    assert best
    assert [one.p95_ms for one in best] == sorted(one.p95_ms for one in best)
    for one in trials:
        assert (one in best) != any(other.dominates(one) for other in best)


@given(TRIALS)
def test_a_third_goes_on_with_the_worker_as_it_is_and_the_fastest_of_the_pareto_front(trials: list[Trial]) -> None:
    remaining = promoted(trials)
    assert remaining[0] == DEFAULTS
    assert len(remaining) == 1 + max(1, len(trials) // PROMOTION)
    assert pareto_front(trials)[0].parameters in remaining


@given(st.integers(2, 40), st.integers(0, 5))
def test_candidates_begin_with_the_defaults_and_a_seed_reproduces_them(most: int, seed: int) -> None:
    tried = candidates(GRID, most, seed)
    assert tried[0] == DEFAULTS
    assert len(set(tried)) == len(tried) <= most
    assert tried == candidates(GRID, most, seed)
    assert all(one.changed.keys() <= GRID.keys() for one in tried)


def test_decoding_modes_are_tried_first_and_by_themselves() -> None:
    tried = candidates(GRID, 9, 0, modes=("verified", "autoregressive"))
    assert tried[1:3] == (Parameters(decoding="verified"), Parameters(decoding="autoregressive"))
    assert not any(one.decoding for one in tried[3:])
    assert str(tried[1]) == "decoding verified"
    assert tried[1].request_params == {}


def test_the_fastest_trial_with_an_acceptable_quality_is_chosen() -> None:
    own, quick, poor = trial(100, 0.95), trial(60, 0.945, steps=8), trial(20, 0.5, steps=4)
    assert choose([own, quick, poor], loss=0.01, p95_ms=None) is quick
    assert choose([own, quick, poor], loss=0.001, p95_ms=None) is own
    assert choose([own, quick, poor], loss=0.01, p95_ms=50) is poor  # the best quality within the limit
    assert choose([own, quick, poor], loss=0.01, p95_ms=10) is None
    assert choose([trial(float("inf"), 0.0)], loss=0.01, p95_ms=None) is None


def test_a_short_trial_is_not_chosen_over_a_longer_one() -> None:
    lucky, own = trial(10, 1.0, steps=4), trial(100, 0.9, seconds=9.0)
    assert choose([lucky, own], loss=0.0, p95_ms=None) is own
    again = trial(70, 0.9, steps=4, seconds=9.0)
    assert set(map(id, longest_of_each([lucky, own, again]))) == {id(own), id(again)}
