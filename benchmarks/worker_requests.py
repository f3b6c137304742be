"""The requests of the worker benchmark, and the two implementations: our loop, and transformers' `generate()`.

Requests are held-out samples of all tasks in turn, so prompts, answers and numbers of steps vary.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch

from diffusion_worker.engine.loop import Capacity, Loop
from diffusion_worker.models.checkpoint_source import locate
from diffusion_worker.models.interface import (
    CanvasContext,
    DiffusionModel,
    MixedContext,
    MixedPass,
    PrefillContext,
)
from diffusion_worker.types.events import BlockSealed, Ending, Faulted
from diffusion_worker.types.model_info import LayerKv, ModelInfo
from diffusion_worker.types.requests import DenoisingParams, GenerationRequest
from training.tasks.registry import TASKS
from training.tasks.sample import Sample, SampleSpec
from training.vocabulary import EOS, decode_ids, encode_prompt

MIXED_TASKS: Final = ("extraction", "sudoku", "clean-up")
EXPERTS: Final = ("eager", "grouped_mm", "batched_mm")  # transformers' own implementations
MAX_TOKENS: Final = 128
Timed = TypeVar("Timed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Results of one run over all requests."""

    texts: tuple[str, ...]
    tokens: int  # emitted, including end tokens
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Throughput."""
        return self.tokens / self.seconds


class InstrumentedModel:
    """A model that counts its passes and their duration. Softening counts as part of the model, as in transformers."""

    def __init__(self, model: DiffusionModel, clock: Callable[[], float] = time.perf_counter) -> None:
        self._model = model
        self._clock = clock
        self.passes = 0
        self.seconds = 0.0

    @property
    def info(self) -> ModelInfo:
        """See `DiffusionModel`."""
        return self._model.info

    @property
    def kv_layers(self) -> tuple[LayerKv, ...]:
        """See `DiffusionModel`."""
        return self._model.kv_layers

    @property
    def device(self) -> torch.device:
        """See `DiffusionModel`."""
        return self._model.device

    @property
    def dtype(self) -> torch.dtype:
        """See `DiffusionModel`."""
        return self._model.dtype

    @property
    def for_templates(self) -> DiffusionModel:
        """Itself: no benchmark of passes fills templates."""
        return self

    @property
    def is_compiled(self) -> bool:
        """See `DiffusionModel`."""
        return self._model.is_compiled

    @property
    def mixed_pass(self) -> MixedPass | None:
        """Counted passes, if the model has any."""
        run = self._model.mixed_pass
        if run is None:
            return None

        def counted(
            ids: torch.Tensor, canvas: torch.Tensor | None, soft: torch.Tensor | None, context: MixedContext
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            self.passes += 1
            return self._timed(lambda: run(ids, canvas, soft, context))

        return counted

    def encode(self, ids: torch.Tensor, context: PrefillContext) -> torch.Tensor:
        """One counted pass."""
        self.passes += 1
        return self._timed(lambda: self._model.encode(ids, context))

    def denoise(self, canvas: torch.Tensor, soft: torch.Tensor, context: CanvasContext) -> torch.Tensor:
        """One counted pass."""
        self.passes += 1
        return self._timed(lambda: self._model.denoise(canvas, soft, context))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `DiffusionModel.logits`."""
        return self._timed(lambda: self._model.logits(hidden))

    def prompt_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.logits(hidden)

    def soften(self, probabilities: torch.Tensor) -> torch.Tensor:
        """See `DiffusionModel.soften`."""
        return self._timed(lambda: self._model.soften(probabilities))

    def _timed(self, call: Callable[[], Timed]) -> Timed:
        started = self._clock()
        out = call()
        self.seconds += self._clock() - started
        return out


class SeparatePasses(InstrumentedModel):
    """Without the pass that prompts, seals and canvases share."""

    @property
    def mixed_pass(self) -> None:
        """None."""
        return


def samples(count: int) -> list[Sample]:
    """Held-out samples, the tasks in turn."""
    spec = SampleSpec(split="test")
    return [TASKS[MIXED_TASKS[i % len(MIXED_TASKS)]](random.Random(f"benchmark/{i}"), spec) for i in range(count)]


def request_for(sample: Sample, denoising: DenoisingParams) -> GenerationRequest:
    """The generation request of a sample."""
    return GenerationRequest(
        prompt_ids=tuple(encode_prompt(sample.prompt)), max_tokens=MAX_TOKENS, seed=0, denoising=denoising
    )


def answer(model: DiffusionModel, requests: Sequence[GenerationRequest], *, rows: int, stagger: int = 0) -> Run:
    """Complete all requests with our loop, `rows` at a time.

    With `stagger`, the first `rows` requests arrive that many steps apart, and each further one when another finishes;
    otherwise all are queued at the start.
    """
    context = max(len(request.prompt_ids) for request in requests) + MAX_TOKENS
    loop = Loop(model, Capacity(max_num_seqs=rows, max_waiting=len(requests), max_context=context))
    texts: dict[int, list[int]] = {}
    tokens = turns = over = 0
    started = time.perf_counter()
    while over < len(requests):
        due = arrived(turns, over, rows=rows, stagger=stagger) if stagger else len(requests)
        for request in requests[len(texts) : due]:
            texts[loop.add(request)] = []
        for sequence, event in loop.step():
            if isinstance(event, BlockSealed):
                texts[sequence] += event.ids
            elif isinstance(event, Ending):
                tokens += _tokens(event)
                over += 1
        turns += 1
    seconds = time.perf_counter() - started
    return Run(texts=tuple(decode_ids([*ids, EOS]) for ids in texts.values()), tokens=tokens, seconds=seconds)


def arrived(turns: int, over: int, *, rows: int, stagger: int) -> int:
    """Number of requests that have arrived after `turns` steps and `over` finished requests; see `answer`."""
    return min(turns // stagger + 1, rows) + over


def _tokens(event: Ending) -> int:
    if isinstance(event, Faulted):
        raise RuntimeError(f"a request of the benchmark failed: {event.error}")
    return event.usage.completion_tokens


class Transformers:
    """The same weights in the unmodified model, run by its `generate()`."""

    def __init__(self, checkpoint: str) -> None:
        from transformers import DiffusionGemmaForBlockDiffusion

        self._model: Any = DiffusionGemmaForBlockDiffusion.from_pretrained(locate(checkpoint)).eval()
        self.experts = EXPERTS[0]

    def choose_experts(self, requests: Sequence[GenerationRequest]) -> None:
        """Select its fastest experts implementation, by the best of three runs."""
        best: dict[str, float] = {}
        for _ in range(3):
            for name in EXPERTS:
                self._model.set_experts_implementation(name)
                best[name] = min(best.get(name, float("inf")), self.answer(requests, rows=len(requests)).seconds)
        self.experts = min(best, key=lambda name: best[name])
        self._model.set_experts_implementation(self.experts)

    def answer(self, requests: Sequence[GenerationRequest], *, rows: int) -> Run:
        """Complete the requests in static batches of `rows`, padded on the left; a batch ends with its slowest
        request."""
        texts: list[str] = []
        tokens = 0
        started = time.perf_counter()
        for first in range(0, len(requests), rows):
            prompts, mask = padded_left([request.prompt_ids for request in requests[first : first + rows]])
            torch.manual_seed(0)
            out = self._model.generate(
                torch.tensor(prompts), attention_mask=torch.tensor(mask), max_new_tokens=MAX_TOKENS
            )
            for ids in out.sequences[:, len(prompts[0]) :].tolist():
                tokens += ids.index(EOS) + 1 if EOS in ids else len(ids)
                texts.append(decode_ids([*ids, EOS]))
        return Run(texts=tuple(texts), tokens=tokens, seconds=time.perf_counter() - started)


def padded_left(prompts: Sequence[tuple[int, ...]]) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts of unequal length filled with 0 on the left, and their mask (1 = prompt token)."""
    longest = max(len(prompt) for prompt in prompts)
    filled = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    return filled, [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
