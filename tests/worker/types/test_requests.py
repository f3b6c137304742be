"""Records refuse invalid values and name the field."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.errors import OutOfRange
from diffusion_worker.types.requests import DenoisingParams, GenerationRequest


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"entropy_bound": -0.1}, "entropy_bound"),
        ({"entropy_bound": math.nan}, "entropy_bound"),
        ({"t_min": 0.0}, "t_min"),
        ({"t_min": 0.9, "t_max": 0.8}, "t_max"),
        ({"stability": -1}, "stability"),
        ({"confidence_threshold": -1.0}, "confidence_threshold"),
        ({"canvas_length": 0}, "canvas_length"),
    ],
)
def test_a_denoising_parameters_out_of_range_names_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(OutOfRange) as wrong:
        DenoisingParams(**changes)
    assert wrong.value.param == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt_ids": ()}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"deadline_s": -1.0}, "deadline_ms"),
    ],
)
def test_a_request_out_of_range_names_its_field(changes: dict[str, Any], field: str) -> None:
    fields = {"prompt_ids": (1,), "max_tokens": 1, "seed": 0, "denoising": DenoisingParams()}
    with pytest.raises(OutOfRange) as wrong:
        GenerationRequest(**{**fields, **changes})
    assert wrong.value.param == field


@given(loads=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=2).map(sorted))
def test_more_load_never_makes_thresholds_stricter(loads: list[float]) -> None:
    """Without load they are the request's own, at full load the loosest, and nothing else changes."""
    own = DenoisingParams(stability=3)
    loosest = replace(own, entropy_bound=2.0, confidence_threshold=0.5, stability=0)
    assert own.at_load(loosest, 0.0) == own
    assert own.at_load(loosest, 1.0) == loosest
    low, high = (own.at_load(loosest, load) for load in loads)
    assert low.entropy_bound <= high.entropy_bound + 1e-12
    assert low.confidence_threshold <= high.confidence_threshold + 1e-12
    assert low.stability >= high.stability
    assert replace(low, entropy_bound=2.0, confidence_threshold=0.5, stability=0) == loosest


@given(load=st.floats(0.0, 1.0), others=st.sampled_from([{}, {"stability": 1}, {"entropy_bound": 2.0, "stability": 0}]))
def test_thresholds_that_moved_are_those_that_differ(load: float, others: dict[str, Any]) -> None:
    """A number of steps may stay the same at a low load."""
    own = DenoisingParams(stability=2)
    loosest = replace(own, **others)
    moved = dict(own.moved_at(loosest, load))
    assert replace(own, **moved) == own.at_load(loosest, load)  # type: ignore[arg-type]
    assert all(getattr(own, name) != value for name, value in moved.items())
