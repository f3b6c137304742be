"""A deadline at any step returns the best canvas so far, with exactly one finish event that names the reason."""

from typing import Any

import pytest

from diffusion_worker.engine import loop as loop_module
from diffusion_worker.engine.loop import Capacity, Loop
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.events import BlockSealed, Faulted, Finished, FinishReason
from diffusion_worker.types.requests import DenoisingParams, GenerationRequest

DENOISING = DenoisingParams(canvas_length=8, steps=10)
STEP_S = 1.0


class _Clock:
    """A clock that advances only with steps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def answered(monkeypatch: pytest.MonkeyPatch, deadline_s: float) -> tuple[tuple[int, ...], list[Any], int]:
    """(ids, endings, steps taken) of an answer over three slow canvases, at one second a step."""
    clock = _Clock()
    monkeypatch.setattr(loop_module, "time", clock)
    model = ToyModel(lambda _prompt: tuple(range(40, 64)), denoising=DENOISING, pace=2)
    it = Loop(model, Capacity(max_num_seqs=1), gauge=lambda: (0, 1))
    # The loop learns the duration of a step from the first request.
    for wanted in (None, deadline_s):
        it.add(GenerationRequest(prompt_ids=(20, 21), max_tokens=24, seed=1, denoising=DENOISING, deadline_s=wanted))
        ids: list[int] = []
        ends: list[Any] = []
        steps = 0
        while it.scheduler.has_work:
            clock.now += STEP_S / 2
            batch_began = clock.now
            happened = _turn(it, clock)
            steps += clock.now > batch_began
            for _, event in happened:
                if isinstance(event, BlockSealed):
                    ids += event.ids
                elif isinstance(event, Finished | Faulted):
                    ends.append(event)
    return tuple(ids), ends, steps


def _turn(it: Loop, clock: _Clock) -> Any:
    step = it._stepper.step

    def slow(batch: Any) -> Any:
        result = step(batch)
        clock.now += STEP_S / 2 if batch.denoises else 0.0
        return result

    it._stepper.step = slow  # type: ignore[method-assign]
    try:
        return it.step()
    finally:
        it._stepper.step = step  # type: ignore[method-assign]


@pytest.mark.parametrize("deadline_s", [2.0, 3.0, 4.0, 6.0, 9.0, 12.0])
def test_at_any_deadline_there_is_one_ending_in_time_and_what_was_found(
    monkeypatch: pytest.MonkeyPatch, deadline_s: float
) -> None:
    ids, [end], steps = answered(monkeypatch, deadline_s)
    assert isinstance(end, Finished)
    assert steps * STEP_S <= deadline_s + STEP_S
    if end.reason is FinishReason.DEADLINE:
        assert 0 < len(ids) < 24 or end.usage.converged is False
    assert all(mine == theirs for mine, theirs in zip(ids[:2], range(40, 64), strict=False)), "the surest come first"


def test_more_time_gives_no_less_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    right = tuple(range(40, 64))
    lengths = []
    for deadline_s in (2.0, 4.0, 6.0, 9.0, 30.0):
        ids, _, _ = answered(monkeypatch, deadline_s)
        lengths.append(sum(mine == theirs for mine, theirs in zip(ids, right, strict=False)))
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1] == 24
