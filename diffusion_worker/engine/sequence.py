"""A submitted ask and how far it has come; what it wants from the next step, and what it makes of the result.

One sequence by itself: knows no queue, no neighbours, no tensors and no clock.
"""

import math
from collections import deque
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from itertools import pairwise

from diffusion_worker.constraints.inference.matcher import Matcher
from diffusion_worker.memory.slots import Allocation
from diffusion_worker.text.alignment import place_of
from diffusion_worker.types.events import Usage
from diffusion_worker.types.observations import BlockStop, Outcome, PredictedWait, SequenceObserved
from diffusion_worker.types.requests import DecodingMode, GenerationRequest, SequenceId
from diffusion_worker.types.step_batch import CanvasResult, Decode, Denoise, Prefill, TokenResult, late_start
from diffusion_worker.types.timeline import Times

CLOSING_STEPS = 3  # so many before its deadline a constrained text begins to look for its end


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """State between two steps. Its context is made of portions: parts of the prompt, sealed canvases, tokens read.
    `pending` are those not yet in the cache."""

    id: SequenceId
    request: GenerationRequest
    submitted: float
    prefill_chunks: list[tuple[int, ...]]
    steps_to_go: int = 0  # on the present canvas
    slot: int | None = None
    context: int = 0  # tokens in the slot
    boundary: int = 0  # context length at which a copy of the slot would serve others
    cached: int = 0
    pending: deque[tuple[int, ...]] = field(default_factory=deque)
    block: int = 0
    start: tuple[int, ...] = ()  # what the present canvas starts from
    emitted: int = 0  # in sealed blocks
    streamed: tuple[int, ...] = ()  # ids of the present block that the client has already
    logprob: float = 0.0  # sum over the emitted tokens that were not forced
    scored: int = 0  # how many those are
    matcher: Matcher | None = None  # before the present canvas, or the next token
    near_deadline: bool = False  # the deadline is near: a constrained text shall close on the present canvas
    mean_entropy: float = math.inf  # of the present canvas
    entropy_rate: float | None = None  # by what factor the last step has changed it
    denoising_steps: int = 0
    forward_passes: int = 0
    converged: bool = True
    preempted: int = 0  # how often
    waiting_since: float = 0.0
    predicted_wait: PredictedWait | None = None  # its wait for a slot
    times: Times = field(init=False)

    def __post_init__(self) -> None:
        self.start, self.matcher = self.request.start_ids, self.request.matcher
        self.steps_to_go = self.steps
        self.waiting_since = self.submitted
        self.times = Times(self.submitted, self.request.timeline)

    @property
    def is_autoregressive(self) -> bool:
        """Whether it is read left to right instead of denoised."""
        return self.request.decoding_mode is DecodingMode.AUTOREGRESSIVE

    @property
    def is_full(self) -> bool:
        """Whether it has emitted all the tokens it asked for."""
        return self.emitted == self.request.max_tokens

    @property
    def all_ids(self) -> tuple[int, ...]:
        """Everything that its context is to hold."""
        return tuple(token for chunk_ids in self.prefill_chunks for token in chunk_ids)

    def is_due(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.request.deadline_s is not None and now >= self.submitted + self.request.deadline_s

    def usage(self, canvas: CanvasResult | None = None) -> Usage:
        """What it has cost so far; those tokens of a canvas counted that have been told."""
        streamed = len(self.streamed) if canvas else 0
        count, logprob = (0, 0.0) if canvas is None else canvas.unforced(streamed)
        count, logprob = self.scored + count, self.logprob + logprob
        return Usage(
            prompt_tokens=len(self.request.prompt_ids),
            cached_tokens=self.cached,
            completion_tokens=self.emitted + streamed,
            denoising_steps=self.denoising_steps,
            forward_passes=self.forward_passes,
            confidence=math.exp(logprob / count) if count else None,
            converged=None if self.is_autoregressive else self.converged,
        )

    def observed(self, outcome: Outcome, now: float) -> SequenceObserved:
        """What is to be told of it at its end."""
        return SequenceObserved(
            decoding_mode=self.request.decoding_mode,
            outcome=outcome,
            queue_s=self.times.queue_s,
            prefill_s=self.times.prefill_s,
            first_block_s=self.times.first_block_s,
            total_s=now - self.submitted,
            usage=self.usage(),
        )

    def iterations_at_most(self) -> int:
        """Iterations it still needs if it neither stops early nor ends before `max_tokens`."""
        room = self.request.max_tokens - self.emitted
        if self.is_autoregressive:
            return room
        further = math.ceil(room / self.width) - 1
        return self.steps_to_go + max(0, further) * self.request.denoising.steps

    # --- its place in the cache

    def allocate(self, allocation: Allocation, *, chunk: int | None) -> None:
        """It has a slot. What that does not hold yet is appended in portions of at most `chunk`; with None in the very
        portions of the first time, so that the same passes give the same bits."""
        self.slot, self.context, self.boundary = allocation.slot, allocation.reused, allocation.boundary
        if chunk is None:
            self.pending = deque(self.prefill_chunks)
        else:
            cut = max(0, allocation.boundary - allocation.reused)
            self.pending = deque(prefill_chunks_of(self.all_ids[allocation.reused :], chunk, cut=cut))
        if self.forward_passes == 0:
            self.cached = allocation.reused

    def preempt(self, now: float) -> None:
        """It has lost its slot; its canvas stays as it is."""
        self.slot, self.context, self.boundary, self.pending = None, 0, 0, deque()
        self.preempted += 1
        self.waiting_since = now

    # --- what it wants

    def next_prefill(self) -> Prefill | None:
        """The causal pass it needs next; None if its context is complete, or the pass would choose a token as well."""
        if not self.pending or (self.is_autoregressive and len(self.pending) == 1):
            return None
        assert self.slot is not None
        is_seal = not self.is_autoregressive and self.context >= len(self.request.prompt_ids)
        return Prefill(sequence=self.id, slot=self.slot, ids=self.pending[0], at=self.context, is_seal=is_seal)

    def next_denoise(self, *, prefilled: int = 0) -> Denoise:
        """Its next canvas step, `appended` more tokens being in the slot by then."""
        assert self.slot is not None
        return Denoise(
            sequence=self.id,
            slot=self.slot,
            at=self.context + prefilled,
            block=self.block,
            step=self.steps_to_go,
            opens=self.steps_to_go == self.steps,
            denoising=self.request.denoising,
            seed=self.request.seed,
            temperature=self.request.temperature,
            start_ids=self.start,
            anchor=self.anchor,
            head=self.streamed,
            tail=self.tail,
            matcher=self.matcher,
            near_deadline=self.near_deadline,
            labels=self.request.labels,
        )

    def next_decode(self) -> Decode:
        """Its next token."""
        assert self.slot is not None
        return Decode(
            sequence=self.id,
            slot=self.slot,
            ids=self.pending[0],
            at=self.context,
            seed=self.request.seed,
            temperature=self.request.temperature,
            matcher=self.matcher,
        )

    @property
    def anchor(self) -> float:
        """How strongly the present canvas keeps to what it starts from; a text that has run out holds nobody."""
        return self.request.anchor if self.start else 0.0

    @property
    def steps(self) -> int:
        """Steps of the present canvas at the most: an anchored one begins late in the schedule."""
        return late_start(self.request.denoising.steps, self.anchor)

    @property
    def steps_done(self) -> int:
        """Steps of the present canvas so far."""
        return self.steps - self.steps_to_go

    @property
    def tail(self) -> tuple[int, ...]:
        """What is pinned at the far end of its canvases: the beginning of the text behind the gap, at most half."""
        return self.request.suffix_ids[: self.request.denoising.canvas_length // 2]

    @property
    def width(self) -> int:
        """Positions of a canvas that can become part of the answer."""
        return self.request.denoising.canvas_length - len(self.tail)

    # --- what it makes of results

    def record_prefill(self, ids: tuple[int, ...]) -> None:
        """These ids, its first pending ones, are in the context."""
        self.context += len(ids)
        self.forward_passes += 1
        self.pending.popleft()

    def record_step(self, canvas: CanvasResult, *, is_late: bool) -> BlockStop | None:
        """Take in one step; returns why the canvas is done, or None if it needs another."""
        self.denoising_steps += 1
        self.forward_passes += 1
        self.steps_to_go -= 1
        self.entropy_rate = canvas.mean_entropy / self.mean_entropy if 0.0 < self.mean_entropy < math.inf else None
        self.mean_entropy = canvas.mean_entropy
        if canvas.has_converged:
            return BlockStop.STABLE
        self.converged = self.converged and self.steps_to_go > 0 and not is_late
        if self.steps_to_go == 0:
            return BlockStop.STEPS
        return BlockStop.DEADLINE if is_late else None

    def visible(self, ids: tuple[int, ...], end_ids: Ids[int]) -> tuple[tuple[int, ...], bool]:
        """The ids of a canvas that its answer would show (up to the first end token, `max_tokens` and its width), and
        whether an end token follows."""
        room = min(self.request.max_tokens - self.emitted, self.width)
        for index, token in enumerate(ids[:room]):
            if token in end_ids:
                return ids[:index], True
        return ids[:room], False

    def newly_stable(self, canvas: CanvasResult, end_ids: Ids[int]) -> tuple[int, ...]:
        """Ids that may be told now, and from now on stay on the canvas."""
        shown, _ = self.visible(canvas.ids[: canvas.stable_prefix], end_ids)
        fresh = shown[len(self.streamed) :]
        self.streamed += fresh
        return fresh

    def seal(self, canvas: CanvasResult, end_ids: Ids[int], *, is_late: bool = False) -> tuple[tuple[int, ...], bool]:
        """Emit the canvas. Returns the ids that were not told before, and whether an end token followed them. With no
        time for another step, a constrained text is made whole without the net."""
        shown, has_end = self.visible(canvas.ids, end_ids)
        count = len(shown) + has_end
        self.emitted += count
        unforced, logprob = canvas.unforced(count)
        self.scored, self.logprob = self.scored + unforced, self.logprob + logprob
        fresh, self.streamed = shown[len(self.streamed) :], ()
        if is_late and self.matcher and not has_end:
            return fresh + self._close(canvas.ids[: self.width]), True
        return fresh, has_end

    def emit_token(self, token: int, end_ids: Ids[int], *, is_late: bool) -> tuple[tuple[int, ...], bool]:
        """What the token just read adds to what is told, and whether the answer ends with it; see `seal`."""
        if token in end_ids:
            return (), True
        return ((token, *self._close(())), True) if is_late and self.matcher else ((token,), False)

    def _close(self, sealed: tuple[int, ...]) -> tuple[int, ...]:
        """The fewest tokens that make a constrained text whole, counted as emitted, the end token with them."""
        closing = self.matcher.after(sealed).shortest() if self.matcher else ()
        self.emitted, self.converged = self.emitted + len(closing) + 1, False
        return closing

    def open_block(self, sealed: tuple[int, ...]) -> None:
        """Go on behind the sealed canvas with a fresh one."""
        chunk_ids = sealed[: self.width]
        if self.matcher is not None:
            self.matcher = self.matcher.after(chunk_ids)
        self.prefill_chunks.append(chunk_ids)
        self.pending.append(chunk_ids)
        self.block += 1
        self.mean_entropy, self.entropy_rate = math.inf, None
        if self.request.start_ids:  # go on in it behind what has been answered; where it has run out, start from noise
            answered = self.all_ids[len(self.request.prompt_ids) :]
            self.start = self.request.start_ids[place_of(answered, self.request.start_ids) :]
        self.steps_to_go = self.steps

    def record_token(self, token: TokenResult, ids: tuple[int, ...]) -> None:
        """Take in one token read left to right; it counts as a block of its own."""
        self.record_prefill(ids)
        self.emitted += 1
        if self.matcher is not None:
            self.matcher = self.matcher.after((token.id,))
        if not token.is_forced:
            self.scored += 1
            self.logprob += token.logprob
        self.prefill_chunks.append((token.id,))
        self.pending.append((token.id,))
        self.block = self.emitted - 1


def prefill_chunks_of(ids: tuple[int, ...], size: int, *, cut: int = 0) -> list[tuple[int, ...]]:
    """Ids in portions of at most `size`, with a border after the first `cut` of them (0: nowhere)."""
    borders = sorted({*range(0, cut, size), *range(cut, len(ids), size), len(ids)})
    return [ids[start:end] for start, end in pairwise(borders)]
