"""Compiled passes are one graph for all batches of a kind, with the results of the eager ones."""

import logging
import random
import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from diffusion_worker.engine.loop import Capacity, Loop
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.memory.mixed_view import Canvases, MixedView, NewTokens
from diffusion_worker.types.requests import DecodingMode, GenerationRequest

CANVAS, SLOTS = 12, 4
SHALLOW = {"layers": 2, "full_every": 2}  # a layer of each kind: compiling takes as long as there are operations
# A C++ compiler takes seconds for each kernel: one test compiles the one kind, another the other kind. Backends without
# it compile both.
SLIDING, FULL = {"layers": 1, "full_every": 2}, {"layers": 1, "full_every": 1}
NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


def compile_with(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: whole(function, backend=backend, **options))
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # two graphs, each half a minute of a core
@NEEDS_COMPILER
@torch.inference_mode()
def test_mixed_batches_are_compiled_once_without_a_graph_break(make_model: Any) -> None:
    """Batches of one row and of several are two graphs; contexts shorter and longer than the window are the same."""
    torch._dynamo.reset()
    counters.clear()
    model, eager = (make_model(dtype=torch.float32, window=16, spread=0.1, **SLIDING) for _ in range(2))
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


@pytest.mark.slow
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
    compile_with("eager", monkeypatch)
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


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=NEEDS_COMPILER)])
@torch.inference_mode()
def test_passes_over_prompts_and_canvases_are_compiled_once_for_all_sizes(
    make_model: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One graph with canvases and one without, with the results of the eager pass; keys and values, too."""
    compile_with(backend, monkeypatch)
    layers = FULL if backend == "inductor" else SHALLOW
    compiled, eager = (make_model(dtype=torch.float32, window=16, spread=0.1, **layers) for _ in range(2))
    compiled.compile()
    caches = [
        KvCache(compiled.kv_layers, slots=SLOTS, slot_tokens=90, dtype=compiled.dtype, device=compiled.device)
        for _ in range(2)
    ]
    dice = random.Random(1)

    def step(rows: int, reading: int) -> None:
        slots, reads = dice.sample(range(SLOTS), rows), dice.sample(range(SLOTS), reading)
        starts, counts = [dice.randint(0, 60) for _ in reads], [dice.randint(1, 25) for _ in reads]
        ends = {slot: at + count for slot, at, count in zip(reads, starts, counts, strict=True)}
        new = NewTokens(slots=tuple(reads), lengths=tuple(starts), counts=tuple(counts))
        lengths = tuple(ends.get(slot, dice.randint(1, 60)) for slot in slots)
        canvases = Canvases(slots=tuple(slots), lengths=lengths, widths=(CANVAS,) * rows, width=CANVAS)
        ids, canvas = torch.randint(6, 60, (sum(counts),)), torch.randint(6, 60, (rows, CANVAS))
        inputs = (canvas, torch.randn(rows, CANVAS, 32)) if rows else (None, None)
        found = []
        for model, cache in zip((compiled, eager), caches, strict=True):
            view = MixedView(cache, new, canvases if rows else None)
            results = model.mixed_pass(ids, *inputs, view)
            cache.seal(view)
            found.append([*(each for each in results if each is not None), *cache.keys, *cache.values])
        torch.testing.assert_close(*found, atol=2e-4, rtol=0)

    for rows, reading in ((2, 1), (0, 2)):
        step(rows, reading)
    assert counters["stats"]["unique_graphs"] == 2
    for _ in range(200 if backend == "eager" else 20):
        step(dice.randint(0, SLOTS), dice.randint(1, SLOTS))
    assert counters["stats"]["unique_graphs"] == 2, "a batch was compiled again"
    assert not counters["graph_break"]


@pytest.mark.slow
def test_after_the_warm_up_no_request_is_compiled_for(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, too: of any decoding mode, alone or beside others, with a prompt of one token or of many."""
    compile_with("eager", monkeypatch)
    model = make_model(dtype=torch.float32, window=16, spread=0.1, **SHALLOW)
    model.compile()
    loop = Loop(model, Capacity(max_num_seqs=4, max_context=100, max_prefill_tokens=20))
    loop.warm_up()
    assert counters["stats"]["unique_graphs"] == 4, "canvases of one row and of several, causal rows, and both"
    for seed in range(12):
        loop.add(
            GenerationRequest(
                prompt_ids=tuple(range(6, 7 + 5 * (seed % 9))),
                max_tokens=30,
                seed=seed,
                denoising=replace(model.info.denoising, steps=3),
                decoding_mode=tuple(DecodingMode)[seed % 3],
            )
        )
    while loop.scheduler.has_work:
        loop.step()
    assert counters["stats"]["unique_graphs"] == 4
