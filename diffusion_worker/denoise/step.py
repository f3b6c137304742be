"""The body of the denoising loop after the forward pass: score, accept, re-noise, stop, for a batch of canvases.

Every parameter is per row, so the canvases of one call may belong to different requests at different steps. Nothing
waits for the device, except once for constrained, labelled or templated rows (see `constrain`, `label`, `fill`):
results for the host leave as one tensor, `Advanced.report`, which the caller fetches once. The same loop as in
transformers' `generation_diffusion_gemma.py`, row by row; `tests/worker/denoise/test_parity.py` compares them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from diffusion_worker.constraints.inference.template import Probabilities
from diffusion_worker.denoise.accept import accept, renoise
from diffusion_worker.denoise.anchor import kept, reduced_span
from diffusion_worker.denoise.canvas import Canvas
from diffusion_worker.denoise.constrain import constrain
from diffusion_worker.denoise.draws import DrawKey, Draws
from diffusion_worker.denoise.fill import fill
from diffusion_worker.denoise.label import label
from diffusion_worker.denoise.penalties import CanvasText, adjustments
from diffusion_worker.denoise.pins import mean_over_free, pin_ids, pinned_places, pins_of
from diffusion_worker.denoise.score import CanvasLogits, Sampling, annealed_temperature, sample, score
from diffusion_worker.denoise.stop import has_converged, stable_prefix, unchanged_for
from diffusion_worker.models.fused import fused
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.requests import Truncation
from diffusion_worker.types.step_batch import CanvasResult, Denoise


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """Canvases after one step, and the step's results; `surest` is what would be sealed."""

    canvases: tuple[Canvas, ...]
    report: torch.Tensor  # [rows, 3 * canvas + 4] of float64, see `canvas_result`
    constraint_s: float = 0.0
    labels: tuple[tuple[float, ...], ...] = ()  # log-probabilities per row
    holes: tuple[Probabilities, ...] = ()  # per row, of its template


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasInputs:
    """Canvases of one length before a step. `ids` [rows, canvas] and `soft` [rows, canvas, hidden] are what the model
    sees; `items[i]` holds the parameters of `canvases[i]`."""

    items: Sequence[Denoise]
    canvases: Sequence[Canvas]
    pins: torch.Tensor | None  # see `denoise.pins`
    ids: torch.Tensor
    soft: torch.Tensor


def inputs_of(items: Sequence[Denoise], canvases: Sequence[Canvas]) -> CanvasInputs:
    """The inputs of a pass over canvases of one length."""
    ids = torch.stack([canvas.ids for canvas in canvases])
    pins = pins_of(items, ids.shape[1], ids.device)
    soft = torch.stack([canvas.soft for canvas in canvases])
    return CanvasInputs(items=items, canvases=canvases, pins=pins, ids=pin_ids(ids, pins), soft=soft)


def advance(
    model: DiffusionModel,
    inputs: CanvasInputs,
    logits: torch.Tensor,
    draws: Draws,
    progress: Callable[[], None] = lambda: None,
) -> Advanced:
    """Advance every canvas by one step, from the `logits` [rows, canvas, vocab] of the model, in place of which the
    probabilities are written. `progress` is called after the host work for each constrained row."""
    items, canvases, pins = inputs.items, inputs.canvases, inputs.pins
    keys = [DrawKey(sequence=i.sequence, seed=i.seed, block=i.block, step=i.step) for i in items]
    rows = _Rows(items, model.device)
    uncounted = (*model.info.end_ids, model.info.pad_id)
    text = CanvasText(ids=inputs.ids, canvases=canvases, pins=pins, uncounted=uncounted)
    canvas, vocab = logits.shape[1:]
    sampling = Sampling(keys=keys, uniforms=draws.uniforms(keys, canvas), asked=_asked(items))
    plain = score(
        CanvasLogits(
            raw=logits.float() if logits.dtype == torch.float64 else logits,
            cap=model.info.logit_cap,
            temperature=rows.temperature,
            pins=pins,
            places=None if pins is None else pinned_places(items, canvas, logits.device),
            adjust=adjustments(items, text, vocab),
        ),
        sampling,
    )
    drawn = sample(plain, sampling, draws)
    noise = draws.noise(keys, canvas, vocab)
    constrained = constrain(items, plain, drawn, lambda: draws.text(keys, canvas), progress)
    labelled = label(items, constrained)
    constrained, scores = labelled.constrained, labelled.constrained.scores
    filled = fill(items, plain.logits)
    previous = [torch.stack([getattr(each, name) for each in canvases]) for name in ("surest", "unchanged")]
    ids, unchanged, has_text, report = settle(
        rows.parameters,
        [scores.entropy, plain.entropy.clone(), scores.likeliest, scores.logprob],  # no tensor twice: see `settle`
        [scores.surest, constrained.sampled, noise, constrained.forced],
        previous,
        pins,
    )
    _mark_answered(report, {**labelled.done, **filled.done})
    soft = model.soften(scores.weights())
    return Advanced(
        canvases=tuple(
            Canvas(
                ids=ids[row],
                soft=soft[row],
                surest=scores.surest[row],
                unchanged=unchanged[row],
                accepted=has_text[row],
            )
            for row in range(len(items))
        ),
        report=report,
        constraint_s=constrained.seconds,
        labels=labelled.logprobs,
        holes=filled.holes,
    )


@fused("settle")
def settle(
    parameters: torch.Tensor,
    numbers: list[torch.Tensor],
    tokens: list[torch.Tensor],
    previous: list[torch.Tensor],
    pins: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The part of a step after scoring: next ids, steps without change, positions with text, and the report. Each list
    holds tensors [rows, canvas], of which a list holds none twice: it would be compiled once more for that. See
    `_Rows.parameters`."""
    _, bound, stability, threshold, anchor, is_greedy = parameters.unbind(-1)
    entropy, own_entropy, likeliest, logprob = numbers
    surest, sampled, noise, forced = tokens
    accepted = accept(entropy, bound)
    is_kept = kept(likeliest, anchor)
    proposed = torch.where(is_greedy[:, None] > 0.0, surest, sampled)
    ids = renoise(proposed, accepted, noise, surest=surest, kept=is_kept)
    unchanged = unchanged_for(surest, *previous)
    mean_entropy = mean_over_free(own_entropy, pins)  # unconstrained: the model itself must be confident
    converged = has_converged(unchanged, mean_entropy, stability, threshold)
    single = [mean_entropy, accepted.sum(-1), stable_prefix(unchanged, logprob), converged]
    has_text = accepted | is_kept
    flags = forced.double() + 2.0 * has_text.double()  # one column for both, see `canvas_result`
    columns = [surest.double(), logprob.double(), flags] + [each.double()[:, None] for each in single]
    return ids, unchanged, has_text, torch.cat(columns, dim=-1)


def canvas_result(
    item: Denoise,
    row: Sequence[float],
    labels: tuple[float, ...] = (),
    *,
    holes: Probabilities = (),
    prompt_surprise: float = 0.0,
    shares_pass: bool = False,
) -> CanvasResult:
    """One row of `Advanced.report`, on the host. Its mean entropy is not finite where the model returned NaN or
    infinity."""
    length = item.denoising.canvas_length
    mean_entropy, accepted, stable_length, converged = row[3 * length :]
    flags = tuple(map(int, row[2 * length : 3 * length]))
    return CanvasResult(
        sequence=item.sequence,
        ids=tuple(map(int, row[:length])),
        logprobs=tuple(row[length : 2 * length]),
        forced=tuple(bool(flag & 1) for flag in flags),
        kept=tuple(bool(flag & 2) for flag in flags),
        mean_entropy=mean_entropy,
        accepted=int(accepted),
        stable_prefix=int(stable_length),
        has_converged=bool(converged),
        labels=labels,
        holes=holes,
        prompt_surprise=prompt_surprise,
        shares_pass=shares_pass,
    )


def _asked(items: Sequence[Denoise]) -> dict[int, tuple[float, Truncation | None]]:
    """The temperature and the truncation of rows that are sampled by one. Greedy rows are not sampled; constrained rows
    are sampled on the host."""
    return {
        row: (item.temperature or 1.0, item.truncation)
        for row, item in enumerate(items)
        if item.matcher is None
        and item.temperature != 0.0
        and (item.truncation is not None or item.temperature not in (None, 1.0))
    }


def _mark_answered(report: torch.Tensor, done: Mapping[int, bool]) -> None:
    """Rows that answer with labels have converged when these are found."""
    if done:
        rows, flags = upload(list(done), report.device), upload([float(each) for each in done.values()], report.device)
        report[rows, -1] = flags.to(report.dtype)


class _Rows:
    """Parameters of a step, [rows, 6] in one upload: temperature, entropy bound, stability, confidence threshold,
    anchor, and whether the most likely tokens are proposed instead of sampled ones."""

    def __init__(self, items: Sequence[Denoise], device: torch.device) -> None:
        # The span is a difference of Python floats, rounded to fp32 once, as in transformers.
        schedule = [
            (
                item.denoising.t_min,
                reduced_span(item.denoising.t_max - item.denoising.t_min, item.anchor),
                item.step,
                item.denoising.steps,
            )
            for item in items
        ]
        others = [
            (
                item.denoising.entropy_bound,
                item.denoising.stability,
                math.inf if _verifies(item) else item.denoising.confidence_threshold,
                item.anchor,
                item.temperature == 0.0,
            )
            for item in items
        ]
        temperature = annealed_temperature(*torch.tensor(schedule).unbind(-1))
        self.parameters = upload(torch.cat([temperature[:, None], torch.tensor(others)], dim=-1), device)
        self.temperature = self.parameters[:, 0]


def _verifies(item: Denoise) -> bool:
    """Whether this is the first step over a text to edit. If the model leaves the text unchanged, the canvas converges
    at once, however confident the model is."""
    return item.opens and item.anchor > 0.0
