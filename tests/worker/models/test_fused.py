"""Fused operations: compiled for batches of all sizes, with the results of their eager forms."""

import shutil
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from diffusion_worker.constraints.inference.class_reduction import CHUNK
from diffusion_worker.denoise.class_scores import chunk_sums
from diffusion_worker.denoise.logit_reads import grouped_scores, logit_sums, weigh_
from diffusion_worker.denoise.step import settle
from diffusion_worker.models import fused as module
from diffusion_worker.models.fused import call_compiled, fused

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


def arguments(rows: int, canvas: int = 16, vocab: int = 1500) -> dict[Any, tuple[Any, ...]]:
    raw = (torch.randn(rows, canvas, vocab) * 8).bfloat16()
    largest, uniforms = raw.amax(-1), torch.rand(rows, canvas, dtype=torch.double)
    temperature = torch.full((rows,), 0.6)
    sums = logit_sums(raw, largest, temperature, 30.0)
    numbers, ids = grouped_scores(raw, largest, temperature, sums, uniforms, 30.0)
    steps = torch.zeros_like(ids)
    top, total, likeliest, entropy, _, logprob = numbers
    slots = torch.arange(vocab - vocab % CHUNK).reshape(-1, CHUNK)
    return {
        chunk_sums: (raw[0], slots, torch.tensor([0.6, 1.4]), 30.0),
        logit_sums: (raw, largest, temperature, 30.0),
        grouped_scores: (raw, largest, temperature, sums, uniforms, 30.0),
        weigh_: (raw, top, temperature, total, 30.0),
        settle: (
            torch.rand(rows, 6),
            [entropy, entropy, likeliest, logprob],
            [ids, ids, ids, ids == 0],
            [ids, steps],
            None,
        ),
    }


@pytest.mark.slow
@needs_compiler
@torch.inference_mode()
def test_operations_of_a_step_are_not_compiled_again_for_other_numbers_of_rows() -> None:
    """After several rows and a single one."""
    torch._dynamo.reset()
    counters.clear()
    warm = 0
    for rows in (3, 1, 8, 2):
        for operation, args in arguments(rows).items():
            function = operation.__wrapped__
            copies = [tuple(each.clone() if isinstance(each, torch.Tensor) else each for each in args) for _ in "ab"]
            found, expected = call_compiled(function, *copies[0]), function(*copies[1])
            torch.testing.assert_close((found, copies[0][0]), (expected, copies[1][0]), atol=1e-5, rtol=1e-4)
        warm = counters["stats"]["unique_graphs"] if rows == 1 else warm
    assert counters["stats"]["unique_graphs"] == warm <= 6, "of five operations"
    assert not counters["graph_break"]


@pytest.mark.parametrize(
    "error",
    [
        torch._dynamo.exc.TorchDynamoException,
        torch._dynamo.exc.FailOnRecompileLimitHit,  # after too many kinds of inputs
    ],
)
def test_an_operation_that_cannot_be_compiled_runs_eager_and_says_so_once(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"doubled_for_a_test_of_{error.__name__}".lower()

    def broken(*_args: Any) -> None:
        raise error("no kernel")

    @fused(name)
    def doubled(numbers: torch.Tensor) -> torch.Tensor:
        return numbers * 2

    monkeypatch.setattr(module, "call_compiled", broken)
    monkeypatch.setattr(module, "find_compiler", lambda _environment: "cc")
    for _ in range(2):
        assert getattr(torch.ops.twolane, name)(torch.ones(2)).tolist() == [2.0, 2.0]
    assert [record.message for record in caplog.records] == [f"cannot compile {name}, running eager: no kernel"]
