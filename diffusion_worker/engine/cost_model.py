"""The cost model: predicts the remaining work of a sequence and its duration from past observations.

Sequences advance together, one iteration at a time, whose cost depends on their decoding modes (see `step_cost`).
Completion lengths, steps per canvas and tokens per verification are running means over requests with prompts of similar
length; steps are corrected by the rate at which the canvas's own entropy falls.
"""

import math
from collections.abc import Collection
from typing import Generic, TypeVar

from diffusion_worker.engine.sequence import Sequence
from diffusion_worker.engine.step_cost import StepFit, StepLoad, load_of
from diffusion_worker.types.observations import PredictedWait
from diffusion_worker.types.requests import DecodingMode
from diffusion_worker.types.step_batch import Batch

_SMOOTHING = 0.1  # weight of the newest observation in a running mean
_ERROR_SMOOTHING = 0.03
_MAX_LOG_CORRECTION = math.log(4.0)  # bound of the wait correction: a factor of 4 up or down
_DEFAULT_SHARE = 0.5  # expected share of the maximum before any observation
UNKNOWN_STEP_S = 0.05  # assumed before a step has been measured
_DEFAULT_TOKENS = 256  # at most, of a completion: without max_tokens the maximum is the context length

Bucket = tuple[DecodingMode, int]  # decoding mode, and round(4 * log2(prompt length))
Key = TypeVar("Key")


class CostModel:
    """Predictions learnt from observations. All times are seconds."""

    def __init__(self, *, is_mixed: bool = False) -> None:
        """`is_mixed`: see `step_cost.load_of`."""
        self._is_mixed = is_mixed
        self._cost = StepFit()
        self._prefilled: float | None = None  # prompt tokens per iteration
        self._steps: _Means[Bucket] = _Means()  # per block
        self._tokens: _Means[Bucket] = _Means()  # per completion
        self._verified: _Means[Bucket] = _Means()  # tokens per iteration of a verified sequence
        self._work_s: float | None = None  # per request
        # Mean log ratio of actual and predicted waits.
        self._bias: dict[DecodingMode, float] = dict.fromkeys(DecodingMode, 0.0)

    def record_step(self, seconds: float, batch: Batch) -> None:
        """Record the duration of an iteration."""
        self._cost.add(load_of(batch, is_mixed=self._is_mixed), seconds)
        self._prefilled = _running_mean(self._prefilled, sum(len(item.ids) for item in batch.prefills))

    def record_block(self, sequence: Sequence) -> None:
        """Record the steps of a canvas that is done."""
        self._steps.add(_bucket(sequence), sequence.steps_done)

    def record_finished(self, sequence: Sequence) -> None:
        """Record the length of a finished sequence."""
        if not sequence.request.max_tokens:  # it says nothing about answers
            return
        self._tokens.add(_bucket(sequence), sequence.emitted)
        iterations = sequence.denoising_steps
        if sequence.is_verified:
            iterations = sequence.block + 1
            self._verified.add(_bucket(sequence), max(1.0, sequence.emitted / iterations))
        elif sequence.is_autoregressive:
            iterations = sequence.emitted
        self._work_s = _running_mean(self._work_s, iterations * self._alone_s(sequence))

    def record_wait(self, predicted_wait: PredictedWait, actual_s: float) -> None:
        """Record the actual wait of a scheduled sequence. The correction is learnt from the raw prediction: learning it
        from corrected ones, which lag by a whole wait, would oscillate."""
        if predicted_wait.plain_s > 0.0 and actual_s > 0.0:
            known, error = (
                self._bias[predicted_wait.decoding_mode],
                math.log(actual_s) - math.log(predicted_wait.plain_s),
            )
            bias = known + _ERROR_SMOOTHING * (error - known)
            self._bias[predicted_wait.decoding_mode] = min(max(bias, -_MAX_LOG_CORRECTION), _MAX_LOG_CORRECTION)

    def step_s(self, sequences: Collection[Sequence]) -> float | None:
        """Predicted seconds of an iteration over these sequences; None before the first observation."""
        return self._step_s(sequences, sum(map(_positions, sequences)))

    def usual_step_s(self, sequences: Collection[Sequence], rows: int) -> float | None:
        """Predicted mean seconds of the iterations, over `rows` rows, in which these sequences run one after the other:
        one with more iterations is part of more of them."""
        iterations = list(map(self.iterations, sequences))
        work = sum(_positions(each) * count for each, count in zip(sequences, iterations, strict=True))
        return self._step_s(sequences, rows * work / max(1.0, sum(iterations)))

    def _step_s(self, sequences: Collection[Sequence], positions: float) -> float | None:
        passes = 2 * any(each.is_verified for each in sequences)  # which also has the pass of diffusion
        modes = {each.request.decoding_mode for each in sequences} - {DecodingMode.VERIFIED}
        passes += len(modes - {DecodingMode.DIFFUSION} if passes else modes)
        return self._cost.at(StepLoad(passes=max(1, passes), positions=positions + (self._prefilled or 0.0)))

    def predict_wait(
        self, iterations: float, step_s: float | None, decoding_mode: DecodingMode
    ) -> PredictedWait | None:
        """Predicted duration of `iterations` iterations of `step_s` each; None if that is not known."""
        if step_s is None:
            return None
        plain_s = iterations * step_s if step_s > 0.0 else 0.0  # avoids inf * 0
        return PredictedWait(
            decoding_mode=decoding_mode, plain_s=plain_s, wait_s=plain_s * math.exp(self._bias[decoding_mode])
        )

    def usual_work_s(self) -> float:
        """Mean seconds of work of a request alone; infinite before any has finished."""
        return self._work_s or math.inf

    def work_s(self, sequence: Sequence) -> float:
        """Predicted seconds that a sequence would still take alone."""
        return self.iterations(sequence) * self._alone_s(sequence)

    def _alone_s(self, sequence: Sequence) -> float:
        step_s = self.step_s((sequence,))
        return UNKNOWN_STEP_S if step_s is None else step_s

    def iterations(self, sequence: Sequence) -> float:
        """Predicted remaining iterations of a sequence, at least 1."""
        at_most = sequence.iterations_at_most()
        tokens = self._tokens.of(_bucket(sequence), sequence.request.max_tokens, prior=_DEFAULT_TOKENS)
        if sequence.is_autoregressive:
            at_once = self._verified.of(_bucket(sequence), math.inf, prior=1.0) if sequence.is_verified else 1.0
            return max(1.0, min(at_most, (tokens - sequence.emitted) / at_once))
        further_blocks = max(0.0, math.ceil((tokens - sequence.emitted) / sequence.width) - 1)
        usual = self._steps.of(_bucket(sequence), sequence.request.denoising.steps)
        return max(1.0, min(at_most, self._steps_to_go(sequence, usual) + further_blocks * usual))

    def _steps_to_go(self, sequence: Sequence, usual: float) -> float:
        """Remaining steps of the current canvas: the usual number, averaged, once its entropy falls, with the steps
        needed to reach the confidence threshold at that rate."""
        left = max(1.0, usual - sequence.steps_done)
        if sequence.entropy_rate is not None and 0.0 < sequence.entropy_rate < 1.0:
            threshold = max(
                sequence.request.denoising.confidence_threshold, 1e-9
            )  # may be infinite; the excess then is 0
            excess = math.log(max(sequence.mean_entropy, 1e-9)) - math.log(threshold)
            falling = 1.0 + max(0.0, excess / -math.log(sequence.entropy_rate))
            left = (left + falling) / 2
        return min(left, sequence.steps_to_go)


def _positions(sequence: Sequence) -> int:
    """Positions that the sequence passes through the model in an iteration, at most: a verified one drafts on a canvas
    and reads the draft."""
    if sequence.is_verified:
        return 2 * sequence.request.denoising.canvas_length
    return 1 if sequence.is_autoregressive else sequence.request.denoising.canvas_length


def _bucket(sequence: Sequence) -> Bucket:
    """The bucket of a sequence: requests of one decoding mode with prompts of similar length."""
    return sequence.request.decoding_mode, round(4 * math.log2(len(sequence.request.prompt_ids)))


class _Means(Generic[Key]):
    """Running means per key; for an unknown key, the mean over all."""

    def __init__(self) -> None:
        self._means: dict[Key, float] = {}
        self._all: float | None = None

    def add(self, key: Key, value: float) -> None:
        self._means[key] = _running_mean(self._means.get(key), value)
        self._all = _running_mean(self._all, value)

    def of(self, key: Key, at_most: float, *, prior: float = math.inf) -> float:
        """The mean of `key`, at most `at_most`; before any observation half of `at_most`, at most `prior`."""
        mean = self._means.get(key, self._all)
        return max(1.0, min(_DEFAULT_SHARE * at_most, prior)) if mean is None else min(mean, at_most)


def _running_mean(known: float | None, newest: float) -> float:
    return newest if known is None else known + _SMOOTHING * (newest - known)
