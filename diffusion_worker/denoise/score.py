"""Scores of every position from the logits: entropy, the most likely token, a sample, and the mean embedding.

The logits are never copied: two fused reads give what all rows need (see `logit_reads`), and rows with penalties, a
truncation or a temperature are read once more, in blocks of positions. Functions of tensors, except for `weights`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from diffusion_worker.constraints.inference.template import FREE
from diffusion_worker.denoise.draws import DrawKey, Draws, invert_cdf
from diffusion_worker.denoise.logit_reads import (
    exponents,
    grouped_scores,
    logit_sums,
    position_blocks,
    probabilities,
    weigh_,
)
from diffusion_worker.denoise.penalties import Adjust
from diffusion_worker.denoise.pins import pin_ids, pin_logits
from diffusion_worker.denoise.truncation import truncated
from diffusion_worker.models.interface import capped
from diffusion_worker.types.requests import Truncation

SMALL: Final = 1 << 20  # logits of a batch whose probabilities are kept in fp32: 4 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasLogits:
    """Logits [rows, canvas, vocab] of a batch of canvases as the output head gives them: in its dtype, before its soft
    cap (0.0: none). `adjust`: penalties by row."""

    raw: torch.Tensor
    cap: float
    temperature: torch.Tensor  # [rows] annealing
    pins: torch.Tensor | None = None  # [rows, canvas], see `denoise.pins`
    places: torch.Tensor | None = None  # of the pins, see `pins.pinned_places`
    adjust: Mapping[int, Adjust] = field(default_factory=dict)

    def capped(self, row: int, positions: slice = slice(None), tokens: torch.Tensor | None = None) -> torch.Tensor:
        """The model's logits in fp32 [positions, vocab] of one row, or those of some tokens."""
        raw = self.raw[row, positions]
        return capped(raw if tokens is None else raw[:, tokens], self.cap)

    def adjusted(self, row: int, positions: slice) -> torch.Tensor:
        """The same after penalties."""
        logits = self.capped(row, positions)
        return self.adjust[row](logits, positions) if row in self.adjust else logits

    def at(self, ids: torch.Tensor) -> torch.Tensor:
        """The model's logits in fp32 [rows, canvas] of one token per position."""
        return capped(self.raw.gather(-1, ids[..., None])[..., 0], self.cap)

    def annealed(self, rows: Sequence[int]) -> torch.Tensor:
        """Annealed logits [rows, canvas, vocab] in fp32 of some rows, after penalties and pins: a copy of them."""
        return torch.stack([self.annealed_at(row, slice(0, self.raw.shape[1])) for row in rows])

    def annealed_at(self, row: int, positions: slice) -> torch.Tensor:
        """The same of some positions of one row: [positions, vocab]."""
        pins = None if self.pins is None else self.pins[row, positions]
        return pin_logits(self.adjusted(row, positions), pins) / self.temperature[row]

    def annealed_tokens(self, row: int, first: int, tokens: torch.Tensor) -> torch.Tensor:
        """Annealed logits of tokens [positions, …] at positions from `first` on, before penalties and pins."""
        raw = self.raw[row, first : first + len(tokens)].gather(1, tokens)
        return capped(raw, self.cap) / self.temperature[row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Large:
    """What the reads of a large batch found: [rows, canvas], after penalties and without pins."""

    top: torch.Tensor  # largest logit
    total: torch.Tensor  # sum of all weights
    sampled: torch.Tensor  # ids; without meaning if there are no uniform numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of one step, [rows, canvas]. `kept` is `Large`, or the annealed probabilities [rows, canvas, vocab] of a
    small batch."""

    logits: CanvasLogits
    kept: Large | torch.Tensor
    normaliser: torch.Tensor  # log-sum-exp of the model's logits at temperature 1
    entropy: torch.Tensor  # in nats, of the annealed logits
    surest: torch.Tensor  # most likely ids
    likeliest: torch.Tensor  # annealed probability of `surest`
    logprob: torch.Tensor  # of `surest` at temperature 1, without penalties and constraints

    def annealed(self, rows: Sequence[int]) -> torch.Tensor:
        """See `CanvasLogits.annealed`."""
        return self.logits.annealed(rows)

    def logprob_of(self, ids: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of ids [rows, canvas] at temperature 1, without penalties."""
        return self.logits.at(ids) - self.normaliser

    def probabilities(self) -> torch.Tensor:
        """Annealed probabilities [rows, canvas, vocab] in fp32: of a large batch a copy, for tests."""
        if isinstance(self.kept, torch.Tensor):
            return self.kept
        return self.annealed(range(len(self.surest))).softmax(-1)

    def weights(self) -> torch.Tensor:
        """Annealed probabilities [rows, canvas, vocab]. Those of a large batch take the place of the logits, in their
        dtype: after this call nothing else can be read."""
        found = self.kept if isinstance(self.kept, torch.Tensor) else _weigh(self.logits, self.kept)
        if self.logits.places is not None:
            row, position, token = self.logits.places
            found[row, position] = 0.0
            found[row, position, token] = 1.0
        return found


def annealed_temperature(
    t_min: torch.Tensor, span: torch.Tensor, step: torch.Tensor, steps: torch.Tensor
) -> torch.Tensor:
    """Temperature [rows] with `step` of `steps` steps to go: t_min + span at the first, almost t_min at the last.

    In fp32 and in this order, as in transformers: another order rounds differently, and the canvases diverge.
    """
    return t_min + span * (step / steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a step samples. `uniforms` [rows, canvas] as in `Draws.uniforms`; `asked`: temperature and truncation of the
    rows that ask for one, by which their annealed logits are sampled."""

    keys: Sequence[DrawKey]
    uniforms: torch.Tensor | None
    asked: Mapping[int, tuple[float, Truncation | None]]

    def weights(self, row: int, z: torch.Tensor) -> torch.Tensor:
        """Weights to sample a row from, for annealed logits [positions, vocab]."""
        temperature, truncation = self.asked.get(row, (1.0, None))
        z = z / temperature
        return z.softmax(-1) if truncation is None else truncated(z, [truncation] * len(z))


def score(logits: CanvasLogits, sampling: Sampling) -> Scores:
    """Score the logits. Logits that are not finite show in the entropy."""
    return _score_small(logits) if logits.raw.numel() <= SMALL else _score_large(logits, sampling)


def sample(scores: Scores, sampling: Sampling, draws: Draws) -> torch.Tensor:
    """Sampled ids [rows, canvas]; pinned positions keep theirs."""
    if isinstance(scores.kept, Large) and sampling.uniforms is not None:
        return pin_ids(scores.kept.sampled, scores.logits.pins)

    def drawn(keys: Sequence[DrawKey], uniforms: torch.Tensor | None, probabilities: torch.Tensor) -> torch.Tensor:
        return draws.sample(keys, probabilities) if uniforms is None else invert_cdf(probabilities, uniforms)

    found = drawn(sampling.keys, sampling.uniforms, scores.probabilities())
    for row in sampling.asked:
        one = slice(row, row + 1)
        uniforms = None if sampling.uniforms is None else sampling.uniforms[one]
        weights = sampling.weights(row, scores.annealed([row])[0])
        found[one] = drawn(sampling.keys[one], uniforms, weights[None])
    return pin_ids(found, scores.logits.pins)


def _score_small(logits: CanvasLogits) -> Scores:
    """With the operations of transformers in their order, so that canvases agree."""
    model = capped(logits.raw, logits.cap)
    surest, normaliser = model.argmax(-1), model.logsumexp(-1)
    divisor = logits.temperature[:, None, None]
    z = model / divisor if model is logits.raw else model.div_(divisor)
    for row in logits.adjust:
        z[row] = logits.adjusted(row, slice(0, z.shape[1])) / logits.temperature[row]
        surest[row] = z[row].argmax(-1)
    probabilities = z.softmax(-1)  # not exp(log_softmax)
    entropy = -(probabilities * z.log_softmax(-1)).sum(-1)
    numbers = (probabilities.amax(-1), entropy, normaliser, logits.at(surest) - normaliser)
    return _scores(logits, probabilities, surest, numbers)


def _score_large(logits: CanvasLogits, sampling: Sampling) -> Scores:
    """In two reads, and one more of rows that ask for it."""
    raw, temperature, cap = logits.raw, logits.temperature, logits.cap
    largest, surest = raw.max(-1)
    uniforms = torch.zeros_like(largest, dtype=torch.double) if sampling.uniforms is None else sampling.uniforms
    sums = logit_sums(raw, largest, temperature, cap)
    numbers, sampled = grouped_scores(raw, largest, temperature, sums, uniforms, cap)
    top, total, *rest = numbers.unbind()
    kept = Large(top=top, total=total, sampled=sampled)
    for row in sorted({*sampling.asked, *logits.adjust}):
        divisor, truncation = sampling.asked.get(row, (1.0, None))
        if truncation is None and row not in logits.adjust:
            one = slice(row, row + 1)
            scaled = temperature[one] * divisor
            sums = logit_sums(raw[one], largest[one], scaled, cap)
            sampled[one] = grouped_scores(raw[one], largest[one], scaled, sums, uniforms[one], cap)[-1]
            continue
        for block in position_blocks(*raw.shape[1:], rows=len(raw)):
            adjusted = logits.adjusted(row, block)
            if row in logits.adjust:
                surest[row, block] = adjusted.argmax(-1)
                _rescore(kept, rest, (row, block), adjusted, temperature[row])
            z = adjusted.div_(temperature[row])
            sampled[row, block] = invert_cdf(sampling.weights(row, z), uniforms[row, block])
    return _scores(logits, kept, surest, rest)


def _rescore(
    kept: Large,
    numbers: Sequence[torch.Tensor],
    place: tuple[int, slice],
    adjusted: torch.Tensor,
    temperature: torch.Tensor,
) -> None:
    """Replace the scores of a block of positions by those after penalties."""
    top = adjusted.amax(-1)
    z = exponents(adjusted[None], top[None], temperature[None])[0]
    weights = z.exp()
    total = weights.sum(-1)
    likeliest, entropy, *_ = numbers
    kept.top[place], kept.total[place], likeliest[place] = top, total, total.reciprocal()
    entropy[place] = total.log() - z.mul_(weights).sum(-1) / total


def _scores(
    logits: CanvasLogits, kept: Large | torch.Tensor, surest: torch.Tensor, numbers: Sequence[torch.Tensor]
) -> Scores:
    """Scores after pins: a pinned position is certain. `numbers`: the annealed probability of the most likely token,
    the entropy, the normaliser, and the log-probability of the model's most likely token."""
    likeliest, entropy, normaliser, logprob = numbers
    if (pins := logits.pins) is not None:
        surest, is_free = pin_ids(surest, pins), pins == FREE
        entropy, likeliest = torch.where(is_free, entropy, 0.0), torch.where(is_free, likeliest, 1.0)
    if pins is not None or logits.adjust:
        logprob = logits.at(surest) - normaliser
    return Scores(
        logits=logits,
        kept=kept,
        normaliser=normaliser,
        entropy=entropy,
        surest=surest,
        likeliest=likeliest,
        logprob=logprob,
    )


def _weigh(logits: CanvasLogits, kept: Large) -> torch.Tensor:
    """Probabilities in place of the logits; those of rows with penalties in blocks."""
    raw, temperature = logits.raw, logits.temperature
    if not logits.adjust:
        weigh_(raw, kept.top, temperature, kept.total, logits.cap)
        return raw
    for row in range(len(raw)):
        one = slice(row, row + 1)
        if row not in logits.adjust:
            weigh_(raw[one], kept.top[one], temperature[one], kept.total[one], logits.cap)
            continue
        for block in position_blocks(*raw.shape[1:], rows=len(raw)):
            of_block = (kept.top[one, block], temperature[one], kept.total[one, block])
            raw[one, block] = probabilities(logits.adjusted(row, block)[None], *of_block).to(raw.dtype)
    return raw
