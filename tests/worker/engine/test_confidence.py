"""The confidence of sequences: what is measured while they run, and when a hopeless one ends."""

from dataclasses import replace

import pytest

from diffusion_worker.engine.limits import Limits
from diffusion_worker.engine.scheduler import Scheduler
from diffusion_worker.errors import LowConfidence
from diffusion_worker.memory.slots import SlotTable
from diffusion_worker.types.confidence import ConfidenceWeights, Evidence
from diffusion_worker.types.events import BlockSealed, Event, Faulted, Finished
from diffusion_worker.types.model_info import LayerKv, ModelInfo, StepShape
from diffusion_worker.types.observations import Observation, Outcome, SequenceObserved
from diffusion_worker.types.requests import DecodingMode, DenoisingParams, GenerationRequest
from diffusion_worker.types.step_batch import CanvasResult, StepResult, TokenResult

END = 1
DENOISING = DenoisingParams(steps=4, canvas_length=4)
WEIGHTS = ConfidenceWeights(intercept=3.0, weights={"prompt_surprise": -1.0, "token_surprise": -1.0, "steps": -1.0})
INFO = ModelInfo(
    vocab_size=100,
    hidden_size=8,
    step=StepShape(vocab_size=100, attention_width=1, feed_forward_width=1),
    max_context=64,
    denoising=DENOISING,
    end_ids=(END,),
    pad_id=0,
    parameters=0,
    dtype="float32",
    weight_bytes=0,
    confidence={DecodingMode.DIFFUSION: WEIGHTS, DecodingMode.AUTOREGRESSIVE: WEIGHTS},
)
REQUEST = GenerationRequest(prompt_ids=(10, 11), max_tokens=12, seed=0, denoising=DENOISING)
READ = replace(REQUEST, decoding_mode=DecodingMode.AUTOREGRESSIVE)


class Played:
    """One sequence under a scheduler, whose steps return what the test says."""

    def __init__(self, request: GenerationRequest, info: ModelInfo = INFO) -> None:
        self.seen: list[Observation] = []
        slots = SlotTable((LayerKv(heads=1, head_dim=1, window=None),), 1, itemsize=4)
        limits = Limits(max_num_seqs=1, max_waiting=1, max_context=64)
        self.scheduler = Scheduler(info, limits, slots, self.seen.append)
        self.scheduler.add(request, 0.0)
        self.events: list[Event] = []

    def canvas(self, *ids: int, surprise: float = 0.0, prompt: float = 0.0, converged: bool = False) -> None:
        """One denoising step; `prompt` is the surprise of the prompt, which the first step reports."""
        batch = self.scheduler.next_batch(0.0)
        found = [
            CanvasResult(
                sequence=item.sequence,
                ids=ids,
                logprobs=(-surprise,) * len(ids),
                mean_entropy=0.5,
                accepted=0,
                stable_prefix=0,
                has_converged=converged,
                prompt_surprise=prompt,
            )
            for item in batch.denoises
        ]
        self._take(StepResult(canvases=tuple(found)), batch)

    def token(self, token: int, *, surprise: float = 0.0, prompt: float = 0.0, now: float = 0.0) -> None:
        """One decoding step."""
        batch = self.scheduler.next_batch(0.0)
        found = [
            TokenResult(sequence=item.sequence, id=token, logprob=-surprise, prompt_surprise=prompt)
            for item in batch.decodes
        ]
        self._take(StepResult(tokens=tuple(found)), batch, now)

    def _take(self, result: StepResult, batch: object, now: float = 0.0) -> None:
        events = self.scheduler.update_from_output(batch, result, now)  # type: ignore[arg-type]
        self.events += [event for _, event in events]

    @property
    def last(self) -> Event:
        return self.events[-1]

    @property
    def outcomes(self) -> list[Outcome]:
        return [each.outcome for each in self.seen if isinstance(each, SequenceObserved)]


def test_the_worst_of_all_canvases_counts() -> None:
    played = Played(REQUEST)
    played.canvas(5, 6, 7, 8, prompt=0.25)
    played.canvas(5, 6, 7, 8, surprise=0.5, converged=True)
    played.canvas(5, END, 0, 0, surprise=1.0, converged=True)
    assert isinstance(played.last, Finished)
    assert played.last.usage.evidence == Evidence(
        prompt_surprise=0.25, token_surprise=(4 * 0.5 + 2 * 1.0) / 8, entropy=0.5, steps=2 / 4, unconverged=0.0
    )
    assert played.last.usage.confidence == WEIGHTS.confidence(played.last.usage.evidence)


def test_a_canvas_that_runs_out_of_steps_has_not_converged() -> None:
    played = Played(REQUEST)
    for _ in range(4):
        played.canvas(5, END, 0, 0)
    assert isinstance(played.last, Finished)
    assert (played.last.usage.evidence.steps, played.last.usage.evidence.unconverged) == (1.0, 1.0)


def test_decoding_left_to_right_uses_no_steps() -> None:
    played = Played(READ)
    played.token(5, surprise=0.8, prompt=0.5)
    played.token(END)
    assert isinstance(played.last, Finished)
    assert played.last.usage.evidence == Evidence(prompt_surprise=0.5, token_surprise=0.1)


@pytest.mark.parametrize("mode", DecodingMode)
def test_a_stranger_ends_with_the_first_step_and_emits_nothing(mode: DecodingMode) -> None:
    played = Played(replace(REQUEST, decoding_mode=mode, min_confidence=0.5))
    if mode is DecodingMode.DIFFUSION:
        played.canvas(5, 6, 7, 8, prompt=9.0)
    else:
        played.token(5, prompt=9.0)
    assert len(played.events) == 1
    assert isinstance(played.last, Faulted)
    assert isinstance(played.last.error, LowConfidence)
    assert played.outcomes == [Outcome.LOW_CONFIDENCE]


def test_an_answer_that_becomes_hopeless_is_not_sealed() -> None:
    """Its tokens are judged at the end of the canvas, before they are emitted."""
    played = Played(replace(REQUEST, min_confidence=0.5))
    played.canvas(5, 6, 7, 8)
    played.canvas(5, 6, 7, 8, surprise=20.0, converged=True)
    assert [type(event) for event in played.events] == [Faulted]


class Closing:
    """A constraint whose text is completed by one more token."""

    def after(self, _ids: tuple[int, ...]) -> "Closing":
        return self

    def shortest(self) -> tuple[int, ...]:
        return (9,)


def test_a_text_that_its_deadline_completes_without_the_model_is_judged_as_such() -> None:
    """Left to right, too: the completion makes it unconverged."""
    weights = {DecodingMode.AUTOREGRESSIVE: replace(WEIGHTS, weights={"unconverged": -9.0})}
    request = replace(READ, min_confidence=0.5, deadline_s=5.0, matcher=Closing())  # type: ignore[arg-type]
    played = Played(request, replace(INFO, confidence=weights))
    played.token(5, now=6.0)
    assert [type(event) for event in played.events] == [Faulted]


def test_without_a_minimum_a_stranger_is_answered_with_a_low_confidence() -> None:
    played = Played(REQUEST)
    played.canvas(5, END, 0, 0, prompt=9.0, converged=True)
    assert isinstance(played.last, Finished)
    assert played.last.usage.confidence is not None
    assert played.last.usage.confidence < 0.01


def test_a_confident_answer_is_not_touched_by_a_minimum() -> None:
    played = Played(replace(REQUEST, min_confidence=0.5))
    played.canvas(5, END, 0, 0, converged=True)
    assert [type(event) for event in played.events] == [BlockSealed, Finished]


def test_a_checkpoint_without_weights_never_ends_an_answer_early() -> None:
    """The mean probability of its tokens may still rise."""
    played = Played(replace(REQUEST, min_confidence=0.99), replace(INFO, confidence={}))
    played.canvas(5, END, 0, 0, surprise=5.0, prompt=9.0, converged=True)
    assert isinstance(played.last, Finished)


def test_nothing_is_known_before_the_first_step() -> None:
    played = Played(REQUEST)
    played.scheduler.leave(1, 0.0)
    (end,) = [event for _, event in played.scheduler.take_events()]
    assert isinstance(end, Faulted)
    assert end.usage.confidence is None
