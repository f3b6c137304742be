"""A schema costs the shipped checkpoint no right answer, and no further step."""

import pytest

from benchmarks.constraints_answers import measure
from benchmarks.vocabularies import SHIPPED
from diffusion_worker.nets.loader import LoadOptions, load
from diffusion_worker.records import Reading


@pytest.mark.slow
@pytest.mark.parametrize("reading", Reading)
def test_a_schema_costs_no_right_answer(reading: Reading) -> None:
    """Words that were never trained on: there the net is least sure."""
    net = load(str(SHIPPED), LoadOptions(threads=1))
    found = measure(net, invented=True, reading=reading, count=60)
    assert found.constrained >= found.free >= 50
    assert found.constrained_steps <= found.free_steps
