"""How much work a sequence still is, and how long work takes: learnt from what was observed, pure arithmetic.

A step costs a + b * rows seconds; answers are as long, and canvases need as many steps, as those of requests with a
prompt of like length have lately, corrected by how a canvas's own entropy falls. Knows no queue and no clock.
"""

import math
from typing import Generic, TypeVar

from diffusion_worker.engine.sequence import Sequence
from diffusion_worker.types.observations import PredictedWait
from diffusion_worker.types.requests import DecodingMode

_SMOOTHING = 0.1  # weight of the newest observation in a running mean
_DECAY = 0.98  # weight that older steps keep in the fit of their cost
_ERROR_SMOOTHING = 0.03
_MAX_LOG_CORRECTION = math.log(4.0)  # how far from experience the correction of predicted waits may go
_DEFAULT_SHARE = 0.5  # share of what is possible that is expected before anything is known

Bucket = tuple[DecodingMode, int]  # reading, and prompt length in steps of a quarter of an octave
Key = TypeVar("Key")


class CostModel:
    """The figures learnt so far. All times in seconds."""

    def __init__(self) -> None:
        self._cost = _LinearFit()
        self._steps: _Means[Bucket] = _Means()  # of a block
        self._tokens: _Means[Bucket] = _Means()  # of an answer
        self._iterations: float | None = None  # of a request
        self._bias: dict[DecodingMode, float] = dict.fromkeys(
            DecodingMode, 0.0
        )  # log of how much longer waits were than foretold

    def record_step(self, seconds: float, rows: int) -> None:
        """One iteration is over."""
        self._cost.add(rows, seconds)

    def record_block(self, sequence: Sequence) -> None:
        """The present canvas of a sequence needs no more steps."""
        self._steps.add(_bucket(sequence), sequence.steps_done)

    def record_finished(self, sequence: Sequence) -> None:
        """An answer is complete."""
        self._tokens.add(_bucket(sequence), sequence.emitted)
        iterations = sequence.emitted if sequence.is_autoregressive else sequence.denoising_steps
        self._iterations = _running_mean(self._iterations, iterations)

    def record_wait(self, predicted_wait: PredictedWait, actual_s: float) -> None:
        """A sequence got its place after so long. What is learnt is the error of the plain prediction: to correct what
        has been corrected, a whole wait later, would swing ever further."""
        if predicted_wait.plain_s > 0.0 and actual_s > 0.0:
            known, error = (
                self._bias[predicted_wait.decoding_mode],
                math.log(actual_s) - math.log(predicted_wait.plain_s),
            )
            bias = known + _ERROR_SMOOTHING * (error - known)
            self._bias[predicted_wait.decoding_mode] = min(max(bias, -_MAX_LOG_CORRECTION), _MAX_LOG_CORRECTION)

    def step_s(self, rows: int) -> float | None:
        """Seconds of an iteration over that many rows; None until one was seen."""
        return self._cost.at(rows)

    def predict_wait(self, iterations: float, rows: int, decoding_mode: DecodingMode) -> PredictedWait | None:
        """How long until that many iterations are over; None until a step was measured."""
        step_s = self.step_s(rows)
        if step_s is None:
            return None
        plain_s = iterations * step_s if step_s > 0.0 else 0.0  # unknown work in steps of no time is no NaN
        return PredictedWait(
            decoding_mode=decoding_mode, plain_s=plain_s, wait_s=plain_s * math.exp(self._bias[decoding_mode])
        )

    def usual_iterations(self) -> float:
        """Of a request that nothing is known of; before any has finished it may be as long as can be."""
        return self._iterations or math.inf

    def iterations(self, sequence: Sequence) -> float:
        """Iterations that a sequence still needs, at least one."""
        at_most = sequence.iterations_at_most()
        tokens = self._tokens.of(_bucket(sequence), sequence.request.max_tokens)
        if sequence.is_autoregressive:
            return max(1.0, min(at_most, tokens - sequence.emitted))
        further_blocks = max(0.0, math.ceil((tokens - sequence.emitted) / sequence.width) - 1)
        usual = self._steps.of(_bucket(sequence), sequence.request.denoising.steps)
        return max(1.0, min(at_most, self._steps_to_go(sequence, usual) + further_blocks * usual))

    def _steps_to_go(self, sequence: Sequence, usual: float) -> float:
        """Steps of the present canvas: those that canvases usually need, and, once its entropy falls, as many as it
        takes to reach the threshold at the rate seen; the mean of the two."""
        left = max(1.0, usual - sequence.steps_done)
        if sequence.entropy_rate is not None and 0.0 < sequence.entropy_rate < 1.0:
            threshold = max(
                sequence.request.denoising.confidence_threshold, 1e-9
            )  # may be infinite, its ratio then is 0
            excess = math.log(max(sequence.mean_entropy, 1e-9)) - math.log(threshold)
            falling = 1.0 + max(0.0, excess / -math.log(sequence.entropy_rate))
            left = (left + falling) / 2
        return min(left, sequence.steps_to_go)


def _bucket(sequence: Sequence) -> Bucket:
    """Requests that look alike before anything is computed."""
    return sequence.request.decoding_mode, round(4 * math.log2(len(sequence.request.prompt_ids)))


class _Means(Generic[Key]):
    """Running means by kin; of strangers the mean over all."""

    def __init__(self) -> None:
        self._means: dict[Key, float] = {}
        self._all: float | None = None

    def add(self, key: Key, value: float) -> None:
        self._means[key] = _running_mean(self._means.get(key), value)
        self._all = _running_mean(self._all, value)

    def of(self, key: Key, at_most: float) -> float:
        """At most what is possible; half of it as long as nothing is known."""
        mean = self._means.get(key, self._all)
        return max(1.0, _DEFAULT_SHARE * at_most) if mean is None else min(mean, at_most)


class _LinearFit:
    """Least squares of seconds over rows, older observations fading."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        self._n, self._x, self._y = _DECAY * self._n + 1, _DECAY * self._x + x, _DECAY * self._y + y
        self._xx, self._xy = _DECAY * self._xx + x * x, _DECAY * self._xy + x * y

    def at(self, x: float) -> float | None:
        if not self._n:
            return None
        mean_x, mean_y = self._x / self._n, self._y / self._n
        spread = self._xx / self._n - mean_x * mean_x
        slope = (self._xy / self._n - mean_x * mean_y) / spread if spread > 1e-9 else 0.0
        # Rows never make a step cheaper, nor is one free: noise may say so.
        return max(mean_y + max(slope, 0.0) * (x - mean_x), mean_y / 8)


def _running_mean(known: float | None, newest: float) -> float:
    return newest if known is None else known + _SMOOTHING * (newest - known)
