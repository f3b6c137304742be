"""The sections of the GPU benchmark. Times are medians in ms, after a warm-up, with the device synchronised."""

import gc
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch

from benchmarks.gpu.dispatch_counts import DispatchCounts
from benchmarks.gpu.models import build, config
from diffusion_worker.constraints.compile import compile_constraint
from diffusion_worker.constraints.inference.matcher import open_matcher
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.constraints.tokens.token_trie import build_token_trie
from diffusion_worker.denoise.canvas import fresh
from diffusion_worker.denoise.draws import CounterDraws
from diffusion_worker.denoise.step import advance, inputs_of
from diffusion_worker.engine.loop import Capacity, Loop
from diffusion_worker.engine.loop import run as complete
from diffusion_worker.memory.mixed_view import Canvases, MixedView, NewTokens
from diffusion_worker.models.diffusion_gemma import DiffusionGemmaModel
from diffusion_worker.types.requests import GenerationRequest
from diffusion_worker.types.step_batch import Denoise

ROWS: Final = (1, 4, 16)
STEPS: Final = 16  # of a canvas, where requests run to their end
_GIB: Final = 1 << 30
_SCHEMA: Final = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "quantity": {"type": "integer"}, "day": {"type": ["string", "null"]}},
    "required": ["name", "quantity", "day"],
    "additionalProperties": False,
}


@dataclass(slots=True, kw_only=True)
class Bench:
    """The device, and the model that the `build` section makes for those after it."""

    device: torch.device
    is_small: bool
    model: DiffusionGemmaModel | None = None
    sweep_ms: float = math.nan  # of reading all weights once, measured when the model was built

    @property
    def built(self) -> DiffusionGemmaModel:
        """The model. Raises LookupError without one."""
        if self.model is None:
            raise LookupError("the model was not built")
        return self.model

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def context(self) -> int:
        """Prompt tokens of every request."""
        return 64 if self.is_small else 1024

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def release(self) -> None:
        """Free what a section left behind."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()

    def ms(self, call: Callable[[], object], *, times: int = 8) -> float:
        """Median duration of a call."""
        for _ in range(2):
            call()
        self.synchronise()
        taken = []
        for _ in range(times):
            started = time.perf_counter()
            call()
            self.synchronise()
            taken.append(1000 * (time.perf_counter() - started))
        return round(statistics.median(taken), 3)

    def requests(self, count: int, tokens: int, steps: int, **changes: Any) -> list[GenerationRequest]:
        """Requests with random prompts that take all their steps."""
        info, random = self.built.info, np.random.default_rng(5)
        denoising = replace(info.denoising, steps=steps, stability=64)
        return [
            GenerationRequest(
                prompt_ids=tuple(int(token) for token in random.integers(200, info.vocab_size, self.context)),
                max_tokens=tokens,
                seed=seed,
                denoising=denoising,
                **changes,
            )
            for seed in range(count)
        ]

    def running(self, rows: int) -> Loop:
        """A loop with `rows` canvases in the middle of their denoising."""
        canvas = self.built.info.denoising.canvas_length
        capacity = Capacity(max_num_seqs=rows, max_context=self.context + 2 * canvas, max_prefill_tokens=4096)
        loop = Loop(self.built, capacity)
        for request in self.requests(rows, canvas, 400):
            loop.add(request)
        for _ in range(rows + 4):
            loop.step()
        return loop


def machine(bench: Bench) -> dict[str, Any]:
    """Versions, and the ceilings: memory bandwidth, copies to the host, and the price of a launch."""
    import transformers

    name = torch.cuda.get_device_name() if bench.is_cuda else "CPU"
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "transformers": transformers.__version__}
    size = 2 * _GIB if bench.is_cuda else 1 << 26
    source = torch.ones(size, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    found["copy TB/s"] = round(2 * size / bench.ms(lambda: target.copy_(source)) / 1e9, 3)
    few = source[:8]
    found["launch us"] = round(bench.ms(lambda: [few.add_(1) for _ in range(100)]) * 10, 3)
    if bench.is_cuda:
        host, part = torch.empty(1 << 28, dtype=torch.uint8), source[: 1 << 28]
        pinned = host.pin_memory()
        found["256 MiB to the host ms"] = bench.ms(lambda: host.copy_(part))
        found["256 MiB to the host, pinned, ms"] = bench.ms(lambda: pinned.copy_(part, non_blocking=True))
    return found


def parity(bench: Bench) -> dict[str, Any]:
    """Answers of a small fp32 model that agree: on the CPU and on the device, together and alone."""
    small, count = config(is_small=True), 6
    host, other = (build(small, torch.float32, torch.device("cpu")) for _ in range(2))
    there = Bench(device=bench.device, is_small=True, model=other)
    other._model.load_state_dict(host._model.state_dict())
    other._model.to(bench.device)
    requests = there.requests(count, 64, 12)
    texts = [[answer.ids for answer in complete(model, requests, max_num_seqs=3)] for model in (host, other)]
    alone = [complete(other, [request], max_num_seqs=1)[0].ids for request in requests]
    return {
        "of answers": count,
        "CPU = device": sum(map(list.__eq__, *([list(ids) for ids in each] for each in texts))),
        "together = alone": sum(list(one) == list(two) for one, two in zip(texts[1], alone, strict=True)),
    }


def build_model(bench: Bench) -> dict[str, Any]:
    """The model of the sections below, and the time that reading its weights takes at least."""
    bench.model = build(config(is_small=bench.is_small), torch.bfloat16, bench.device)
    info, sizes = bench.model.info, sorted((each.nbytes for each in bench.model._model.parameters()), reverse=True)
    # Small weights would measure launches, so that the large ones stand for all.
    large = [each for each in bench.model._model.parameters() if each.nbytes >= sizes[len(sizes) // 8]]
    share = sum(each.nbytes for each in large) / sum(sizes)
    bench.sweep_ms = bench.ms(lambda: [each.amax() for each in large]) / share
    return {
        "parameters": info.parameters,
        "weights GiB": round(info.weight_bytes / _GIB, 3),
        "sweep of the weights ms": round(bench.sweep_ms, 3),
    }


def step(bench: Bench, *, rows: int) -> dict[str, Any]:
    """One step: whole, the model and the sampler alone, launches, waits, memory against the plan, and the time of
    kernels."""
    if bench.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    loop, model = bench.running(rows), bench.built
    canvas, hidden = model.info.denoising.canvas_length, model.info.hidden_size
    found: dict[str, Any] = {"step ms": bench.ms(loop.step)}
    view = loop._stepper.cache.canvas_view(range(rows), [bench.context] * rows, canvas)
    ids = torch.zeros(rows, canvas, dtype=torch.long, device=bench.device)
    soft = torch.zeros(rows, canvas, hidden, dtype=model.dtype, device=bench.device)
    with torch.inference_mode():
        found["model ms"] = bench.ms(lambda: model.denoise(ids, soft, view))
        found["model beside a seal ms"] = _mixed_ms(bench, loop, rows)
        found["sampler ms"] = _sampler_ms(bench, rows)
    with DispatchCounts(bench.device.type) as counts:
        loop.step()
    found["operations that launch"] = counts.launches.total()
    found["step of the sweep of the weights"] = round(found["step ms"] / bench.sweep_ms, 3)
    found["tokens/s at 16 steps a canvas and a seal"] = round(rows * canvas / ((STEPS + 1) * found["step ms"] / 1000))
    if bench.is_cuda:
        found |= _on_cuda(bench, loop)
    return found


@torch.inference_mode()
def _mixed_ms(bench: Bench, loop: Loop, rows: int) -> float:
    """A pass over a sealed canvas and canvases, the first of which is behind it; nothing is written to the slots."""
    model, context = bench.built, bench.context
    canvas = model.info.denoising.canvas_length
    new = NewTokens(slots=(0,), lengths=(context,), counts=(canvas,))
    lengths = (context + canvas, *(context,) * (rows - 1))
    canvases = Canvases(slots=tuple(range(rows)), lengths=lengths, widths=(canvas,) * rows, width=canvas)
    sealed = torch.zeros(canvas, dtype=torch.long, device=bench.device)
    soft = torch.zeros(rows, canvas, model.info.hidden_size, dtype=model.dtype, device=bench.device)
    mixed = model.mixed_pass
    assert mixed is not None
    cache = loop._stepper.cache
    return bench.ms(lambda: mixed(sealed, sealed.expand(rows, -1), soft, MixedView(cache, new, canvases)))


@torch.inference_mode()
def _sampler_ms(bench: Bench, rows: int) -> float:
    """What follows the pass, over random logits. They are overwritten: their values do not change what it costs."""
    model, info = bench.built, bench.built.info
    canvas, draws = info.denoising.canvas_length, CounterDraws(bench.device)
    items = [
        Denoise(
            sequence=row, slot=row, at=bench.context, block=0, step=3, opens=False, denoising=info.denoising, seed=row
        )
        for row in range(rows)
    ]
    ids = torch.zeros(canvas, dtype=torch.long, device=bench.device)
    inputs = inputs_of(items, [fresh(ids, info.hidden_size, model.dtype) for _ in items])
    logits = torch.randn(rows, canvas, info.vocab_size, dtype=model.dtype, device=bench.device)
    return bench.ms(lambda: advance(model, inputs, logits, draws))


def compiled(bench: Bench) -> dict[str, Any]:
    """Steps whose passes are compiled, as a worker on a GPU does; those of the sections after this one are, too."""
    began = time.perf_counter()
    bench.built.compile()
    found: dict[str, Any] = {}
    for rows in ROWS[:2]:  # a graph for one row, one for several, and one beside a seal
        loop = bench.running(rows)
        step_ms = bench.ms(loop.step)
        found |= {
            f"{rows} rows: step ms": step_ms,
            f"{rows} rows: step of the sweep of the weights": round(step_ms / bench.sweep_ms, 3),
            f"{rows} rows: model beside a seal ms": _mixed_ms(bench, loop, rows),
        }
    return found | {"seconds with compiling": round(time.perf_counter() - began, 1)}


def _on_cuda(bench: Bench, loop: Loop) -> dict[str, Any]:
    from torch.profiler import ProfilerActivity, profile

    used = torch.cuda.max_memory_allocated() / _GIB
    planned = (loop.plan.step_bytes + bench.built.info.weight_bytes) / _GIB
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        loop.step()
        torch.cuda.set_sync_debug_mode("default")
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        loop.step()
        bench.synchronise()
    kernels = [event for event in profiled.events() if event.device_type.name == "CUDA"]
    slowest: dict[str, float] = {}
    for event in kernels:
        slowest[event.name[:60]] = slowest.get(event.name[:60], 0.0) + event.device_time / 1000
    ordered = sorted(slowest.items(), key=lambda each: -each[1])[:10]
    return {
        "peak GiB": round(used, 2),
        "planned without slots GiB": round(planned, 2),
        "waits": len(waits),
        "kernels": len(kernels),
        "kernels ms": round(sum(slowest.values()), 3),
        "slowest kernels ms": {name: round(ms, 3) for name, ms in ordered},
    }


def generate(bench: Bench, *, cache: str | None) -> dict[str, Any]:
    """Tokens per second of one request, ours beside the library's `generate()`, with as many steps."""
    model, canvas = bench.built, bench.built.info.denoising.canvas_length
    [request] = bench.requests(1, 2 * canvas, STEPS)
    prompt = torch.tensor([request.prompt_ids], device=bench.device)
    options = {} if cache is None else {"cache_implementation": cache}

    def theirs() -> None:
        model._model.generate(
            prompt,
            max_new_tokens=2 * canvas,
            max_denoising_steps=STEPS,
            stability_threshold=64,
            eos_token_id=None,
            pad_token_id=None,
            **options,
        )

    ours = bench.ms(lambda: complete(model, [request], max_num_seqs=1), times=3)
    library = bench.ms(theirs, times=3)
    return {name: round(2 * canvas / ms * 1000) for name, ms in (("worker", ours), ("generate()", library))}


def constrained(bench: Bench) -> dict[str, Any]:
    """Steps with constrained rows, over a synthetic vocabulary of the model's size."""
    model = bench.built
    vocab, random = model.info.vocab_size, np.random.default_rng(0)
    words = [b"", b"", *(bytes([number]) for number in range(256))]
    known = set(words)
    while len(words) < vocab:
        word = b" " * random.integers(0, 2) + bytes(random.integers(97, 123, random.integers(2, 9)).astype(np.uint8))
        if word not in known:
            known.add(word)
            words.append(word)
    started = time.perf_counter()
    compiled = compile_constraint(Constraint(kind="json_schema", value=_SCHEMA)).automaton
    automaton = compile_tokens(compiled, build_token_trie(words, (1,), 0))
    assert automaton is not None
    found: dict[str, Any] = {"compile s": round(time.perf_counter() - started, 2)}
    canvas = model.info.denoising.canvas_length
    for rows, of_them in ((1, 1), (4, 1), (4, 4)):
        capacity = Capacity(max_num_seqs=rows, max_context=bench.context + 2 * canvas, max_prefill_tokens=4096)
        loop = Loop(model, capacity)
        for number, request in enumerate(bench.requests(rows, 2 * canvas, 400)):
            matcher = open_matcher(automaton, 2 * canvas) if number < of_them else None
            loop.add(replace(request, matcher=matcher))
        for _ in range(rows + 2):
            loop.step()
        found[f"{rows} rows, {of_them} constrained: step ms"] = bench.ms(loop.step, times=3)
    return found


# Name -> (seconds that the released shape needs, section), in order of their worth.
SECTIONS: Final[Mapping[str, tuple[float, Callable[[Bench], dict[str, Any]]]]] = MappingProxyType(
    {
        "machine": (10.0, machine),
        "parity of a small model": (10.0, parity),
        "build": (30.0, build_model),
        **{f"step at {rows} rows": (15.0, partial(step, rows=rows)) for rows in ROWS},
        "one request, beside generate() eager": (20.0, partial(generate, cache=None)),
        "constrained rows": (40.0, constrained),
        "compiled passes": (120.0, compiled),
        "one request, beside generate() compiled": (100.0, partial(generate, cache="static")),
    }
)
