"""The state of one submitted request: the work it needs next, and how results advance it.

Independent of other sequences; free of tensors and of a clock.
"""

import math
from collections import deque
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field

from diffusion_worker.constraints.inference.matcher import Matcher
from diffusion_worker.constraints.inference.template import Template
from diffusion_worker.engine.answer_evidence import AnswerEvidence
from diffusion_worker.engine.penalty_counts import PenaltyCounts
from diffusion_worker.engine.prefill_chunks import prefill_chunks_of
from diffusion_worker.memory.scored_prompt import ScoredPrompt
from diffusion_worker.memory.slots import Allocation
from diffusion_worker.text.alignment import aligned_index
from diffusion_worker.types.confidence import ConfidenceWeights, Evidence
from diffusion_worker.types.events import Usage
from diffusion_worker.types.observations import BlockStop, PredictedWait
from diffusion_worker.types.requests import DecodingMode, DenoisingParams, GenerationRequest, SequenceId
from diffusion_worker.types.step_batch import (
    CanvasResult,
    Decode,
    Denoise,
    Prefill,
    PromptResult,
    TokenResult,
    late_start,
)
from diffusion_worker.types.timeline import Times

CLOSING_STEPS = 3  # steps before the deadline at which constrained text must end on its canvas


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """State of a sequence between two steps.

    Its context consists of `prefill_chunks`: parts of the prompt, sealed canvases, and decoded or verified tokens.
    `pending` are the chunks that are not in the cache yet.
    """

    id: SequenceId
    request: GenerationRequest
    submitted: float
    prefill_chunks: list[tuple[int, ...]]
    steps_to_go: int = 0  # on the current canvas
    slot: int | None = None
    context: int = 0  # tokens in the slot
    boundary: int = 0  # context length at which a copy of the slot is worth caching; 0: none
    cached: int = 0  # prompt tokens reused from the prefix cache
    pending: deque[tuple[int, ...]] = field(default_factory=deque)
    block: int = 0
    start: tuple[int, ...] = ()  # text that the current canvas starts from
    emitted: int = 0  # tokens of sealed blocks
    streamed: tuple[int, ...] = ()  # ids of the current block that were streamed already
    weights: ConfidenceWeights | None = None  # of its confidence; None: the mean probability of its tokens
    scored_prompt: ScoredPrompt = field(init=False)  # what is known of it, if it is requested
    matcher: Matcher | None = None  # state before the current canvas, or the next token
    canvas_matcher: Matcher | None = None  # of a verified sequence: before its canvas, whose first tokens are known
    is_canvas_open: bool = False  # of a verified sequence: a step has drafted on its canvas
    is_draft_given: bool = True  # the next draft is what is left of `start`, without a canvas
    load: float = 0.0  # of the scheduler, from 0 to 1
    highest_load: float = 0.0  # of its denoising steps
    near_deadline: bool = False  # constrained text must end on the current canvas
    template: Template | None = None  # of its canvas, with what earlier passes have decided
    mean_entropy: float = math.inf  # nats, of the current canvas
    entropy_rate: float | None = None  # factor by which the last step changed it
    denoising_steps: int = 0
    forward_passes: int = 0
    converged: bool = True
    preempted: int = 0  # number of preemptions
    waiting_since: float = 0.0
    predicted_wait: PredictedWait | None = None  # for its first scheduling
    times: Times = field(init=False)
    penalty_counts: PenaltyCounts = field(init=False)
    answer: AnswerEvidence = field(init=False)

    def __post_init__(self) -> None:
        self.start = self.request.start_ids
        self.matcher = self.canvas_matcher = self.request.matcher
        self.template = self.request.template
        self.scored_prompt = ScoredPrompt(top=self.request.prompt_logprobs or 0)
        self.steps_to_go = self.steps
        self.waiting_since = self.submitted
        self.times = Times(self.submitted, self.request.timeline)
        self.penalty_counts = PenaltyCounts(self.request)
        self.answer = AnswerEvidence(weights=self.weights)

    @property
    def is_autoregressive(self) -> bool:
        """Whether causal passes choose its tokens, one by one or along a draft, instead of denoising."""
        return self.request.decoding_mode is not DecodingMode.DIFFUSION

    @property
    def is_verified(self) -> bool:
        """Whether causal passes verify drafts of its canvases."""
        return self.request.decoding_mode is DecodingMode.VERIFIED

    @property
    def is_full(self) -> bool:
        """Whether it has emitted `max_tokens` tokens."""
        return self.emitted == self.request.max_tokens

    @property
    def all_ids(self) -> tuple[int, ...]:
        """All ids of its context, whether cached yet or not."""
        return tuple(token for chunk_ids in self.prefill_chunks for token in chunk_ids)

    def is_due(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.request.deadline_s is not None and now >= self.submitted + self.request.deadline_s

    def usage(self, canvas: CanvasResult | None = None) -> Usage:
        """Usage so far; of an unsealed `canvas`, the streamed tokens count."""
        streamed = len(self.streamed) if canvas else 0
        logprobs = canvas.unforced(streamed) if canvas else []
        evidence, moved = self._evidence(logprobs), self.request.moved_thresholds(self.highest_load)
        return Usage(
            prompt_tokens=len(self.request.prompt_ids),
            cached_tokens=self.cached,
            completion_tokens=self.emitted + streamed,
            denoising_steps=self.denoising_steps,
            forward_passes=self.forward_passes,
            confidence=self.answer.confidence(evidence, logprobs, has_begun=self.forward_passes > 0),
            evidence=evidence,
            load=self.highest_load if moved else None,
            thresholds=moved,
            converged=None if self.is_autoregressive else self.converged,
        )

    def _evidence(self, logprobs: Ids[float] = ()) -> Evidence:
        steps = 0 if self.is_autoregressive else max(self.answer.steps, self.steps_done)
        return self.answer.measured(logprobs, steps=steps / self.request.denoising.steps, converged=self.converged)

    def is_hopeless(self) -> bool:
        """Whether its confidence cannot reach the request's minimum."""
        return self.answer.is_below(self.request.min_confidence, self._evidence())

    def iterations_at_most(self) -> int:
        """Iterations it still needs without early stopping and up to `max_tokens`."""
        remaining = self.request.max_tokens - self.emitted
        if self.is_autoregressive:
            return remaining
        further = math.ceil(remaining / self.width) - 1
        return self.steps_to_go + max(0, further) * self.request.denoising.steps

    # --- its KV-cache slot

    def allocate(self, allocation: Allocation, *, chunk: int | None) -> None:
        """Take a slot. Missing context is prefilled in chunks of at most `chunk` tokens; with None, in exactly the
        chunks of the first time, so that the same passes give the same bits."""
        self.slot, self.context, self.boundary = allocation.slot, allocation.reused, allocation.boundary
        if chunk is None:
            self.pending = deque(self.prefill_chunks)
        else:
            cut = max(0, allocation.boundary - allocation.reused)
            *chunks, known = self.prefill_chunks if self.has_known else (*self.prefill_chunks, ())
            ids = tuple(token for each in chunks for token in each)[allocation.reused :]
            self.pending = deque(prefill_chunks_of(ids, chunk, cut=cut) + [known] * self.has_known)
        if self.forward_passes == 0:
            self.cached = allocation.reused
        kept = None if self.request.prompt_logprobs is None else allocation.scored
        if kept is not None and allocation.reused >= len(self.scored_prompt.ids):
            self.scored_prompt = kept.first(allocation.reused + 1)

    def preempt(self, now: float) -> None:
        """Give up the slot; the canvas is kept."""
        self.slot, self.context, self.boundary, self.pending = None, 0, 0, deque()
        self.preempted += 1
        self.waiting_since = now

    # --- the work it needs

    def next_prefill(self, at_most: int) -> Prefill | None:
        """Its next causal pass, over the first `at_most` tokens of a chunk; None if the context is complete, or if a
        Decode includes the pass."""
        if not self.pending:
            return None
        ids = self.pending[0][:at_most]
        if self.is_autoregressive and len(self.pending) == 1 and len(ids) == len(self.pending[0]):
            return None
        assert self.slot is not None
        is_output = self.context >= len(self.request.prompt_ids)
        return Prefill(
            sequence=self.id,
            slot=self.slot,
            ids=ids,
            at=self.context,
            is_seal=is_output and not self.is_autoregressive,
            width=self.request.denoising.canvas_length if is_output and self.is_verified else 0,
            fills=self.template is not None,
            next_ids=self._next_prompt_ids(len(ids)),
            prompt_top=self.scored_prompt.top,
        )

    def _next_prompt_ids(self, count: int) -> tuple[int, ...]:
        """The prompt tokens that its next pass over `count` tokens predicts, if their log-probabilities are
        requested."""
        if self.request.prompt_logprobs is None:
            return ()
        return self.request.prompt_ids[self.context + 1 : self.context + 1 + count]

    def next_denoise(self, *, prefilled: int = 0) -> Denoise:
        """Its next canvas step, for a slot that holds `prefilled` more tokens by then."""
        assert self.slot is not None
        return Denoise(
            sequence=self.id,
            slot=self.slot,
            at=self.context + prefilled,
            block=self.block,
            step=self.steps_to_go,
            opens=self.steps_to_go == self.steps,
            denoising=self.denoising,
            seed=self.request.seed,
            temperature=self.request.temperature,
            truncation=self.request.truncation,
            penalties=self.penalty_counts.inputs,
            start_ids=self.start,
            anchor=self.anchor,
            pinned_prefix=self.streamed,
            pinned_suffix=self.pinned_suffix,
            matcher=self.matcher,
            near_deadline=self.near_deadline,
            labels=self.request.labels,
            template=self.template,
        )

    def next_decode(self) -> Decode:
        """Its next token, including the causal pass over the last pending chunk."""
        assert self.slot is not None
        return Decode(
            sequence=self.id,
            slot=self.slot,
            ids=self.pending[0],
            at=self.context,
            seed=self.request.seed,
            temperature=self.request.temperature,
            truncation=self.request.truncation,
            penalties=self.penalty_counts.inputs,
            matcher=self.matcher,
            top_logprobs=self.request.top_logprobs or 0,
            ends_prompt=self.emitted == 0,
            next_ids=self._next_prompt_ids(len(self.pending[0])),
            prompt_top=self.scored_prompt.top,
        )

    @property
    def denoising(self) -> DenoisingParams:
        """The parameters of its next step. Under load, thresholds move within the request's limits."""
        request = self.request
        return request.denoising.at_load(request.loosest, self.load) if request.loosest else request.denoising

    @property
    def has_known(self) -> bool:
        """Whether its last chunk is the known part of the canvas of a verified sequence; it is never prefilled."""
        return self.is_verified and self.emitted > 0

    @property
    def anchor(self) -> float:
        """Anchor strength of the current canvas; 0 once the start text is used up."""
        return self.request.anchor if self.start else 0.0

    @property
    def steps(self) -> int:
        """Maximum steps of the current canvas: an anchored one starts late in the schedule."""
        return late_start(self.request.denoising.steps, self.anchor)

    @property
    def steps_done(self) -> int:
        """Steps of the current canvas so far."""
        return self.steps - self.steps_to_go

    @property
    def pinned_suffix(self) -> tuple[int, ...]:
        """Ids pinned at the end of its canvases: the beginning of the suffix, at most half a canvas."""
        return self.request.suffix_ids[: self.request.denoising.canvas_length // 2]

    @property
    def width(self) -> int:
        """Positions of a canvas that can become output."""
        return self.request.denoising.canvas_length - len(self.pinned_suffix)

    # --- how results advance it

    def record_prefill(self, ids: tuple[int, ...]) -> None:
        """Record that `ids`, the beginning of its first pending chunk, are in the cache."""
        self.context += len(ids)
        self.forward_passes += 1
        if rest := self.pending.popleft()[len(ids) :]:
            self.pending.appendleft(rest)

    def record_prompt(self, result: PromptResult) -> ScoredPrompt:
        """Record log-probabilities of its prompt; returns all that are known."""
        self.scored_prompt = self.scored_prompt.extended(self.request.prompt_ids, result.at, result.values)
        return self.scored_prompt

    def record_step(self, canvas: CanvasResult, *, is_late: bool) -> BlockStop | None:
        """Record one step; returns why the canvas is done, or None if it needs another."""
        self.denoising_steps += 1
        self.forward_passes += not canvas.shares_pass  # which counts as that of its Prefill
        self.steps_to_go -= 1
        self.highest_load = max(self.highest_load, self.load)
        self.entropy_rate = canvas.mean_entropy / self.mean_entropy if 0.0 < self.mean_entropy < math.inf else None
        self.mean_entropy = canvas.mean_entropy
        if self.template is not None:
            self.template = self.template.narrowed(canvas.holes)
        self.answer.add_prompt(canvas.prompt_surprise)
        if canvas.has_converged:
            return BlockStop.STABLE
        self.converged = self.converged and self.steps_to_go > 0 and not is_late
        if self.steps_to_go == 0:
            return BlockStop.STEPS
        return BlockStop.DEADLINE if is_late else None

    def visible(self, ids: tuple[int, ...], end_ids: Ids[int]) -> tuple[tuple[int, ...], bool]:
        """(output ids of a canvas, whether an end token follows): up to the first end token, `max_tokens` and the
        canvas width."""
        remaining = min(self.request.max_tokens - self.emitted, self.width)
        for index, token in enumerate(ids[:remaining]):
            if token in end_ids:
                return ids[:index], True
        return ids[:remaining], False

    def newly_stable(self, canvas: CanvasResult, end_ids: Ids[int]) -> tuple[int, ...]:
        """Ids that became stable with this step; they are pinned on the canvas from now on."""
        shown, _ = self.visible(canvas.ids[: canvas.stable_prefix], end_ids)
        fresh = shown[len(self.streamed) :]
        self.streamed += fresh
        return fresh

    def seal(self, canvas: CanvasResult, end_ids: Ids[int], *, is_late: bool = False) -> tuple[tuple[int, ...], bool]:
        """Emit the canvas. Returns the ids that were not streamed before, and whether an end token followed them. If
        `is_late`, constrained text is completed without the model."""
        shown, has_end = self.visible(canvas.ids, end_ids)
        count = len(shown) + has_end
        self.emitted += count
        self.answer.add_tokens(canvas.unforced(count))
        self.answer.add_canvas(canvas.mean_entropy, self.steps_done)
        fresh, self.streamed = shown[len(self.streamed) :], ()
        if is_late and self.matcher and not has_end:
            return fresh + self._close(canvas.ids[: self.width]), True
        return fresh, has_end

    def emit(self, tokens: Ids[TokenResult], end_ids: Ids[int], *, is_late: bool) -> tuple[tuple[int, ...], bool]:
        """Emit recorded tokens; returns the ids and whether the sequence ends with them, see `seal`."""
        self.emitted += len(tokens)
        self.answer.add_tokens([token.logprob for token in tokens if not token.is_forced])
        ids = tuple(token.id for token in tokens)
        if ids[-1] in end_ids:
            return ids[:-1], True
        return ((*ids, *self._close(())), True) if is_late and self.matcher else (ids, False)

    def _close(self, sealed: tuple[int, ...]) -> tuple[int, ...]:
        """The shortest completion of constrained text; it counts as emitted, including the end token."""
        closing = self.matcher.after(sealed).shortest() if self.matcher else ()
        self.emitted, self.converged = self.emitted + len(closing) + 1, False
        return closing

    def open_block(self, sealed: tuple[int, ...]) -> None:
        """Append the sealed canvas to the context and continue with a new one."""
        chunk_ids = sealed[: self.width]
        self.matcher = self.matcher and self.matcher.after(chunk_ids)
        self.append(chunk_ids)
        self.block += 1
        self.mean_entropy, self.entropy_rate = math.inf, None
        self.start = self.rest_of_start()  # from noise once it is used up
        self.steps_to_go = self.steps

    def record_token(self, token: TokenResult, ids: tuple[int, ...]) -> None:
        """Record one decoded token; it counts as a block."""
        self.record_prefill(ids)
        self.answer.add_prompt(token.prompt_surprise)
        self.block += self.emitted > 0
        self.take((token,), begins_canvas=True)
        self.append((token.id,))
        self.start = self.rest_of_start() if self.is_verified else self.start

    def take(self, tokens: Ids[TokenResult], *, begins_canvas: bool) -> None:
        """Move behind these tokens. The next draft continues its canvas, or the last token begins a new one."""
        ids = [token.id for token in tokens]
        if begins_canvas:
            self.canvas_matcher = self.matcher and self.matcher.after(ids[:-1])
            self.is_canvas_open, self.steps_to_go = False, self.steps
        self.matcher = self.matcher and self.matcher.after(ids)

    def rest_of_start(self) -> tuple[int, ...]:
        """What is left of the start text after the output so far."""
        if not self.request.start_ids:
            return ()
        output = self.all_ids[len(self.request.prompt_ids) :]
        return self.request.start_ids[aligned_index(output, self.request.start_ids) :]

    def append(self, ids: tuple[int, ...]) -> None:
        """Append output to the context."""
        self.prefill_chunks.append(ids)
        self.pending.append(ids)
        self.penalty_counts.add(ids)
