"""Scores of every position from the logits: entropy, the most likely token, a sample, and the mean embedding.

The logits are never copied: two fused reads give what all rows need (see `logit_reads`), and rows with penalties, a
truncation or a temperature are read once more, in blocks of positions. Functions of tensors, except for `weights`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from diffusion_worker.constraints.inference.template import FREE
from diffusion_worker.denoise.draws import DrawKey, Draws, invert_cdf, invert_grouped
from diffusion_worker.denoise.logit_reads import (
    GROUP,
    exponents,
    grouped,
    logit_sums,
    position_blocks,
    probabilities,
    weigh_,
)
from diffusion_worker.denoise.penalties import Adjust
from diffusion_worker.denoise.pins import pin_ids, pin_logits
from diffusion_worker.denoise.truncation import truncated
from diffusion_worker.models.host_to_device import upload
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
        canvas = slice(0, self.raw.shape[1])
        index = upload(list(rows), self.raw.device)
        adjusted = torch.stack([self.adjusted(row, canvas) for row in rows])
        pins = None if self.pins is None else self.pins[index]
        return pin_logits(adjusted, pins) / self.temperature[index][:, None, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Large:
    """What the reads of a large batch found: after penalties, and without pins."""

    top: torch.Tensor  # [rows, canvas] largest logit
    sums: torch.Tensor  # [3, rows, canvas, groups], see `logit_reads.sums`
    total: torch.Tensor  # [rows, canvas] sum of all weights


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

    def sampled(self, uniform: torch.Tensor) -> torch.Tensor:
        """Ids [rows, canvas] sampled from the annealed probabilities by uniform numbers [rows, canvas]; in rows of a
        large batch with penalties they mean nothing."""
        if isinstance(self.kept, torch.Tensor):
            return invert_cdf(self.kept, uniform)
        top, sums = self.kept.top, self.kept.sums[0].double()
        return invert_grouped(sums, uniform, lambda group: _weights_in(self.logits, top, group), GROUP)

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


def score(logits: CanvasLogits) -> Scores:
    """Score the logits. Logits that are not finite show in the entropy."""
    return _score_small(logits) if logits.raw.numel() <= SMALL else _score_large(logits)


def sample(
    scores: Scores, draws: Draws, keys: Sequence[DrawKey], asked: Mapping[int, tuple[float, Truncation | None]]
) -> torch.Tensor:
    """Sampled ids [rows, canvas]; pinned positions keep theirs. `asked`: the temperature and the truncation of rows
    that have one, by which the annealed logits are sampled; these rows, and those with penalties, are read once more
    if the vocabulary is large."""
    logits, canvas = scores.logits, scores.surest.shape[1]
    uniforms = draws.uniforms(keys, canvas)
    found = draws.sample(keys, scores.probabilities()) if uniforms is None else scores.sampled(uniforms)
    again = dict(asked)
    if isinstance(scores.kept, Large):
        again = dict.fromkeys(logits.adjust, (1.0, None)) | again
    for row, (temperature, truncation) in again.items():
        parts = []
        for block in position_blocks(canvas, logits.raw.shape[-1], rows=len(keys)):
            z = logits.adjusted(row, block) / logits.temperature[row] / temperature
            weights = z.softmax(-1) if truncation is None else truncated(z, [truncation] * len(z))
            parts.append(weights if uniforms is None else invert_cdf(weights, uniforms[row, block]))
        found[row] = torch.cat(parts) if uniforms is not None else draws.sample([keys[row]], torch.cat(parts)[None])[0]
    return pin_ids(found, logits.pins)


def tokens_of(scores: Scores, sampled: torch.Tensor, temperatures: tuple[float | None, ...]) -> torch.Tensor:
    """Proposed ids [rows, canvas]: sampled, or the most likely ones in rows with temperature 0."""
    if 0.0 not in temperatures:
        return sampled
    is_greedy = upload([temperature == 0.0 for temperature in temperatures], sampled.device)
    return torch.where(is_greedy[:, None], scores.surest, sampled)


def _score_small(logits: CanvasLogits) -> Scores:
    """With the operations of transformers in their order, so that canvases agree."""
    model = capped(logits.raw, logits.cap)
    z = model / logits.temperature[:, None, None]
    surest = model.argmax(-1)
    for row in logits.adjust:
        z[row] = logits.adjusted(row, slice(0, z.shape[1])) / logits.temperature[row]
        surest[row] = z[row].argmax(-1)
    probabilities = z.softmax(-1)  # not exp(log_softmax)
    entropy = -(probabilities * z.log_softmax(-1)).sum(-1)
    return _scores(logits, probabilities, model.logsumexp(-1), entropy, surest, probabilities.amax(-1))


def _score_large(logits: CanvasLogits) -> Scores:
    """In two reads, and one more of rows with penalties."""
    raw = logits.raw
    largest, surest = raw.max(-1)
    top = capped(largest, logits.cap)
    sums = logit_sums(raw, top, logits.temperature, logits.cap)
    normaliser = top + sums[2].sum(-1, dtype=torch.float64).log().float()
    if logits.adjust:
        top = top.clone()  # it is part of the normaliser
        for row in logits.adjust:
            for block in position_blocks(*raw.shape[1:], rows=len(raw)):
                _rescore(logits, row, block, top, surest, sums)
    total, weighted = sums[:2].sum(-1, dtype=torch.float64).unbind()
    entropy = (total.log() - weighted / total).float()
    kept = Large(top=top, sums=sums, total=total.float())
    return _scores(logits, kept, normaliser, entropy, surest, total.reciprocal().float())


def _scores(
    logits: CanvasLogits,
    kept: Large | torch.Tensor,
    normaliser: torch.Tensor,
    entropy: torch.Tensor,
    surest: torch.Tensor,
    likeliest: torch.Tensor,
) -> Scores:
    """Scores after pins: a pinned position is certain."""
    if (pins := logits.pins) is not None:
        surest, is_free = pin_ids(surest, pins), pins == FREE
        entropy, likeliest = torch.where(is_free, entropy, 0.0), torch.where(is_free, likeliest, 1.0)
    return Scores(
        logits=logits,
        kept=kept,
        normaliser=normaliser,
        entropy=entropy,
        surest=surest,
        likeliest=likeliest,
        logprob=logits.at(surest) - normaliser,
    )


def _rescore(
    logits: CanvasLogits, row: int, block: slice, top: torch.Tensor, surest: torch.Tensor, sums: torch.Tensor
) -> None:
    """Replace what penalties change in the scores of a block of positions."""
    adjusted = logits.adjusted(row, block)
    top[row, block], surest[row, block] = adjusted.max(-1)
    z = exponents(adjusted[None], top[row, None, block], logits.temperature[row, None])[0]
    weights = z.exp()
    sums[0, row, block] = grouped(weights).sum(-1)
    sums[1, row, block] = grouped(z.mul_(weights)).sum(-1)


def _weights_in(logits: CanvasLogits, top: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Weights [rows, canvas, GROUP] of the tokens of one group [rows, canvas, 1] per position."""
    vocab = logits.raw.shape[-1]
    ids = group * GROUP + torch.arange(GROUP, device=group.device)
    inside = capped(logits.raw.gather(-1, ids.clamp(max=vocab - 1)), logits.cap)
    weights = exponents(inside, top, logits.temperature).exp()
    return torch.where(ids < vocab, weights, 0.0)


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
