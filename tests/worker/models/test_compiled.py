"""A compiled canvas pass is one graph for all batches, with the results of the eager one."""

import logging
import random
import shutil
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from diffusion_worker.memory.kv_cache import KvCache

CANVAS, SLOTS = 12, 4
SHALLOW = {"layers": 2, "full_every": 2}  # a layer of each kind: compiling takes as long as there are operations


@pytest.mark.slow
@pytest.mark.timeout(1800)  # two graphs, each a minute of a core
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@torch.inference_mode()
def test_mixed_batches_are_compiled_once_without_a_graph_break(make_model: Any) -> None:
    """Batches of one row and of several are two graphs; contexts shorter and longer than the window are the same."""
    torch._dynamo.reset()
    counters.clear()
    model, eager = (make_model(dtype=torch.float32, window=16, spread=0.1, **SHALLOW) for _ in range(2))
    dice = random.Random(1)
    model.compile()
    cache = KvCache(model.kv_layers, slots=SLOTS, slot_tokens=64, dtype=model.dtype, device=model.device)
    for slot in range(SLOTS):
        view = cache.prefill_view([slot], [0], [60])
        model.encode(torch.arange(60)[None] % 50 + 6, view)
        cache.seal(view)

    def step(rows: int, longest: int) -> None:
        slots = dice.sample(range(SLOTS), rows)
        lengths = [longest, *(dice.randint(1, longest) for _ in range(rows - 1))]
        view = cache.canvas_view(slots, lengths, CANVAS)
        ids = torch.randint(6, 60, (rows, CANVAS))
        soft = torch.randn(rows, CANVAS, model.info.hidden_size)
        found, expected = model.denoise(ids, soft, view), eager.denoise(ids, soft, view)
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)

    for rows, longest in ((1, 9), (1, 40), (3, 9), (3, 40), (2, 60)):
        step(rows, longest)
    warm = counters["stats"]["unique_graphs"]
    for _ in range(200):
        step(dice.randint(1, SLOTS), dice.randint(2, 60))
    assert counters["stats"]["unique_graphs"] == warm, "a batch was compiled again"
    assert not counters["graph_break"]


@torch.inference_mode()
def test_a_pass_that_cannot_be_compiled_runs_eager_and_says_so_once(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, eager = (make_model(dtype=torch.float32, window=16, **SHALLOW) for _ in range(2))
    cache = KvCache(model.kv_layers, slots=1, slot_tokens=64, dtype=model.dtype, device=model.device)
    view = cache.prefill_view([0], [0], [20])
    model.encode(torch.arange(20)[None] + 6, view)
    cache.seal(view)

    def compiler(_graph: object, _inputs: object) -> object:
        raise NotImplementedError("no such kernel")

    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: whole(function, backend=compiler, **options))
    model.compile()
    ids, soft = torch.arange(CANVAS)[None] + 6, torch.zeros(1, CANVAS, model.info.hidden_size)
    for _ in range(2):
        found, expected = (each.denoise(ids, soft, cache.canvas_view([0], [20], CANVAS)) for each in (model, eager))
        assert torch.equal(found, expected)
    [message] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert message.startswith("cannot compile the canvas passes, running eager: ")
    assert message.endswith("NotImplementedError: no such kernel")


@pytest.mark.slow
@torch.inference_mode()
def test_no_length_of_canvas_or_context_is_a_graph_of_its_own(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests choose both. A canvas of one position runs eager, as does whatever else would need a graph."""
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: whole(function, backend="eager", **options))
    torch._dynamo.reset()
    counters.clear()
    model = make_model(dtype=torch.float32, window=16, **SHALLOW)
    model.compile()
    cache = KvCache(model.kv_layers, slots=3, slot_tokens=64, dtype=model.dtype, device=model.device)
    for slot in range(3):
        view = cache.prefill_view([slot], [0], [40])
        model.encode(torch.arange(40)[None] + 6, view)
        cache.seal(view)

    def step(rows: int, canvas: int, context: int, dtype: torch.dtype = torch.long) -> None:
        view = cache.canvas_view(range(rows), [context] * rows, canvas)
        soft = torch.zeros(rows, canvas, model.info.hidden_size)
        model.denoise(torch.full((rows, canvas), 9, dtype=dtype), soft, view)

    for rows in (1, 3):
        step(rows, CANVAS, 40)
    assert counters["stats"]["unique_graphs"] == 2
    for rows, canvas, context in ((1, 1, 9), (3, 1, 9), (1, 2, 1), (2, 7, 1), (2, CANVAS, 20)):
        step(rows, canvas, context)
    step(1, CANVAS, 40, torch.int)
    assert counters["stats"]["unique_graphs"] == 2
    assert model._compiled is not None
