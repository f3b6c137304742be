"""Thresholds that follow the queue: the answer says which values were used."""

import asyncio
import json
from typing import Any

import pytest

from diffusion_worker.types.requests import DenoisingParams
from tests.worker.pacing import held
from tests.worker.serving import VERIFIED, Served, events, serving, toy_model, until

pytestmark = pytest.mark.anyio
DENOISING = DenoisingParams(canvas_length=16, steps=16, confidence_threshold=0.01, entropy_bound=0.1)
LIMITS = {"confidence_threshold": 0.51, "entropy_bound": 1.1}


async def used(served: Served, others: int, **fields: Any) -> dict[str, Any]:
    """The `diffusion` object of an answer while `others` requests wait behind it."""
    with held(served.model):
        first = asyncio.create_task(served.ask(**fields))
        await until(lambda: served.engine.status().running == 1)
        waiting = [asyncio.create_task(served.ask(seed=1)) for _ in range(others)]
        await until(lambda: served.engine.status().waiting == others)
    answer = await first
    await asyncio.gather(*waiting)
    if fields.get("stream"):
        return dict(json.loads(events(answer.text)[-2])["diffusion"])
    return dict(answer.json()["usage"]["diffusion"])


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
async def test_an_answer_says_the_load_and_the_thresholds_that_it_was_given(fields: dict[str, Any]) -> None:
    """One request waits for two rows: the load is at its highest. Of two, only the thresholds of `under_load` move."""
    async with serving(toy_model(denoising=DENOISING), max_num_seqs=1) as served:
        found = await used(served, 2, diffusion={"under_load": LIMITS}, **fields)
        assert (found["load"], found["thresholds"]) == (1.0, LIMITS)
        found = await used(served, 2, diffusion={"under_load": {"entropy_bound": 1.1}}, **fields)
        assert found["thresholds"] == {"entropy_bound": 1.1}


async def test_half_a_load_moves_thresholds_half_the_way() -> None:
    async with serving(toy_model(denoising=DENOISING), max_num_seqs=4) as served:
        with held(served.model):
            tasks = [asyncio.create_task(served.ask(diffusion={"under_load": LIMITS})) for _ in range(4)]
            await until(lambda: served.engine.status().running + served.engine.status().waiting == 4)
            tasks.append(asyncio.create_task(served.ask(seed=1)))
            await until(lambda: served.engine.status().running + served.engine.status().waiting == 5)
        found = [(await task).json()["usage"]["diffusion"] for task in tasks]
    halfway = {"confidence_threshold": 0.26, "entropy_bound": 0.6}
    assert [(each["load"], each["thresholds"]) for each in found[:4]] == [(0.5, halfway)] * 4


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({}, {}),
        ({"seed": 5, "diffusion": {"under_load": LIMITS}}, {}),
        ({"model": VERIFIED}, {}),
        ({"diffusion": {"under_load": LIMITS}}, {"exact": True}),
        ({"diffusion": {"under_load": {}}}, {}),
    ],
    ids=["off", "seed", "verified", "exact", "no limits"],
)
async def test_other_answers_keep_their_thresholds(fields: dict[str, Any], settings: dict[str, Any]) -> None:
    """The toy model has no exact passes of its own; the worker must not look at the queue."""
    async with serving(toy_model(denoising=DENOISING), max_num_seqs=1, **settings) as served:
        found = await used(served, 2, **fields)
    assert not {"load", "thresholds"} & set(found)
