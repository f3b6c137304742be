"""The benchmark of thresholds that follow the queue: its load, its figures and its verdict."""

from dataclasses import replace

import pytest

from benchmarks.worker_adaptive import (
    IN_TIME,
    Outcome,
    WorkClock,
    capacity,
    is_cleared,
    outcome,
    poisson,
    samples,
    serve,
)
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.requests import DecodingMode, DenoisingParams
from training.requests import request_for

OFF = Outcome(share_in_time=0.3, accuracy=0.99, steps=4.0, load=0.0, seconds=9.0)


def test_it_is_cleared_by_twenty_points_in_time_for_one_point_of_accuracy() -> None:
    assert is_cleared(OFF, replace(OFF, share_in_time=0.51, accuracy=0.981))
    assert not is_cleared(OFF, replace(OFF, share_in_time=0.49))
    assert not is_cleared(OFF, replace(OFF, share_in_time=0.9, accuracy=0.979))


def test_idle_times_are_passed_over() -> None:
    clock = WorkClock()
    clock.skip_to(50.0)
    assert 50.0 <= clock() < 60.0
    clock.skip_to(1.0)
    assert clock() >= 50.0


def test_requests_arrive_at_the_rate_that_is_asked_for() -> None:
    arrivals = poisson(4000, 20.0)
    assert arrivals == sorted(arrivals)
    assert len(arrivals) / arrivals[-1] == pytest.approx(20.0, rel=0.1)


def test_thresholds_move_only_where_they_may() -> None:
    """All arrive at once, so that most of them wait. The toy model answers with the prompt, which is wrong."""
    model, drawn = ToyModel(denoising=DenoisingParams(canvas_length=16, steps=16, entropy_bound=0.0)), samples(14)
    requests = [request_for(model, each, DecodingMode.DIFFUSION, seed=1) for each in drawn]
    loosest = replace(model.info.denoising, entropy_bound=100.0)
    off, on = (
        outcome(serve(model, [replace(each, loosest=limits) for each in requests], [0.0] * 14), drawn, 1e9)
        for limits in (None, loosest)
    )
    assert (off.load, off.share_in_time, off.accuracy) == (0.0, 1.0, 0.0)
    assert 0.0 < on.load <= 1.0
    assert on.steps <= off.steps


def test_the_capacity_is_that_of_a_full_batch() -> None:
    """Each of eight rows takes about an eighth of the time between two answers, so an answer takes eight of these."""
    model = ToyModel(denoising=DenoisingParams(canvas_length=16, steps=16))
    requests = [request_for(model, samples(1)[0], DecodingMode.DIFFUSION)] * 32
    per_s, usual_s = capacity(model, requests)
    assert per_s * usual_s == pytest.approx(8.0, rel=0.5)
    assert IN_TIME > 1.0
