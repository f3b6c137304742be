"""Canvas templates through the whole loop: in one step or two, without an effect on other rows of the batch."""

from dataclasses import replace

import numpy as np
import pytest

from diffusion_worker.constraints.inference.template import FREE, Template, template_of
from diffusion_worker.engine.loop import Capacity, Loop, run
from diffusion_worker.errors import NotFinite
from diffusion_worker.types.events import BlockSealed, Faulted, Finished
from diffusion_worker.types.requests import GenerationRequest
from tests.worker.test_constrained import DENOISING, WORDS, request, turned
from tests.worker.test_labelled import FixedNet, noise

LENGTH = DENOISING.canvas_length
SINGLE = [(30,), (31,), (32,)]
SEVERAL = [(30, 30), (30, 31), (31, 30), (31, 31)]


def one(*holes: list[tuple[int, ...]]) -> Template:
    """Holes behind a token each; then padding."""
    used = sum(1 + len(labels[0]) for labels in holes)
    pad = WORDS.padding_id
    return template_of([((21,), labels) for labels in holes], (pad,) * (LENGTH - used), pad_id=pad)


def filled(*holes: list[tuple[int, ...]], **changes: object) -> GenerationRequest:
    steps = replace(DENOISING, steps=2)
    return replace(request(None, max_tokens=LENGTH, denoising=steps), template=one(*holes), **changes)  # type: ignore[arg-type]


def share(position: int, tokens: list[int]) -> list[float]:
    logits = noise(LENGTH, len(WORDS.tokens))[position, tokens].double().numpy()
    return (np.exp(logits) / np.exp(logits).sum()).tolist()


def test_holes_of_single_tokens_take_one_step() -> None:
    """Their probabilities are the model's shares at the holes' positions."""
    loop = Loop(FixedNet(), Capacity(max_context=200))
    loop.add(filled(SINGLE, SINGLE))
    sealed, finished = turned(loop)
    assert isinstance(sealed, BlockSealed)
    assert isinstance(finished, Finished)
    assert finished.usage.denoising_steps == 1
    first, second = sealed.holes
    assert first == pytest.approx(share(1, [30, 31, 32]), abs=1e-5)
    assert second == pytest.approx(share(3, [30, 31, 32]), abs=1e-5)


def test_labels_that_part_twice_take_two_steps_and_the_second_one_shows_the_first_token() -> None:
    model, shown = FixedNet(), list[list[int]]()
    denoise = model.denoise
    model.denoise = lambda canvas, soft, context: (shown.extend(canvas.tolist()), denoise(canvas, soft, context))[1]  # type: ignore[method-assign]
    loop = Loop(model, Capacity(max_context=200))
    shown.clear()
    loop.add(filled(SEVERAL))
    sealed, finished = turned(loop)
    first, second = share(1, [30, 31]), share(2, [30, 31])
    assert sealed.holes[0] == pytest.approx([a * b for a in first for b in second], abs=1e-5)
    assert finished.usage.denoising_steps == 2
    assert [row[0] for row in shown] == [21, 21]
    assert shown[1][1] == [30, 31][int(np.argmax(first))]
    rest = one(SEVERAL).ids
    assert all(row[at] == token for row in shown for at, token in enumerate(rest) if token != FREE)


def test_a_deadline_after_the_first_step_leaves_its_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("diffusion_worker.engine.loop.time.monotonic", lambda: clock[0])
    loop = Loop(FixedNet(), Capacity(max_context=200))
    loop.add(filled(SEVERAL, deadline_s=1.5))
    sealed, finished = turned(loop, clock)
    assert finished.usage.denoising_steps <= 2
    assert sum(sealed.holes[0]) == pytest.approx(1.0)


@pytest.mark.parametrize("is_exact", [False, True])
def test_neighbours_notice_nothing(is_exact: bool) -> None:
    """Nor does a row with a template depend on them."""

    def answered(*requests: GenerationRequest) -> list[object]:
        loop = Loop(FixedNet(), Capacity(max_context=200, max_num_seqs=4, is_exact=is_exact))
        said: dict[int, list[object]] = {loop.add(each): [] for each in requests}
        while loop.scheduler.has_work:
            for who, event in loop.step():
                if isinstance(event, BlockSealed):
                    said[who] += [event.holes] if event.holes else event.ids
        return list(said.values())

    free, bound = request(None, max_tokens=40), request("a pattern", seed=1)
    few, many = filled(SINGLE), filled(SEVERAL, SINGLE)
    together = answered(free, few, bound, many)
    assert together == [*answered(free), *answered(few), *answered(bound), *answered(many)]


def test_a_row_of_nan_faults_alone() -> None:
    fine, faulted = run(FixedNet(), [filled(SINGLE), filled(SINGLE, prompt_ids=(99, 21))])
    assert isinstance(fine.end, Finished)
    assert isinstance(faulted.end, Faulted)
    assert isinstance(faulted.end.error, NotFinite)
