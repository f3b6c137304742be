"""The passes of a step: their inputs, and, once they are queued, the numbers that the host will need of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import torch

from diffusion_worker.constraints.inference.template import Probabilities
from diffusion_worker.denoise.autoregressive import HiddenStates
from diffusion_worker.denoise.canvas import Canvas
from diffusion_worker.denoise.step import CanvasInputs, canvas_result
from diffusion_worker.memory.kv_cache import KvCache, NewContext
from diffusion_worker.memory.mixed_view import Canvases, MixedView, NewTokens
from diffusion_worker.memory.prompt_scores import TokenPlace
from diffusion_worker.memory.step_memory import PADDED_POSITIONS
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.requests import SequenceId
from diffusion_worker.types.step_batch import Batch, CanvasResult, Decode, Denoise, Prefill, RowFault, Verify

Item = Prefill | Denoise | Verify | Decode
Work = TypeVar("Work", Prefill, Denoise, Verify, Decode, Prefill | Decode)
Some = TypeVar("Some")


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalInputs:
    """The tokens of a causal pass: those of row i begin at `firsts[i]` of `ids` [tokens], and follow `new.lengths[i]`
    cached ones. `width`: positions of a row, padding included; 0: rows are not padded."""

    new: NewTokens
    ids: torch.Tensor
    firsts: Sequence[int]
    width: int

    @property
    def places(self) -> list[TokenPlace]:
        """Where each row is, in the pass and in its slot."""
        rows = zip(self.new.slots, self.new.lengths, self.new.counts, self.firsts, strict=True)
        return [TokenPlace(slot=slot, at=at, count=count, first=first) for slot, at, count, first in rows]

    def rows(self, of_tokens: torch.Tensor) -> torch.Tensor:
        """Values [tokens, ...] of the pass by row [rows, longest, ...]; those behind a shorter row mean nothing."""
        counts, longest = self.new.counts, max(self.new.counts)
        if self.width or len(counts) == 1:
            return of_tokens.view(len(counts), -1, *of_tokens.shape[1:])
        places = [
            [first + min(place, count - 1) for place in range(longest)]
            for first, count in zip(self.firsts, counts, strict=True)
        ]
        return of_tokens[upload(places, of_tokens.device)]

    def run(self, model: DiffusionModel, cache: KvCache) -> tuple[HiddenStates, NewContext]:
        """The hidden states of the pass, and what it would write to the cache."""
        view: NewContext
        if model.mixed_pass is not None and not self.width:
            view = MixedView(cache, self.new)
            hidden, _ = model.mixed_pass(self.ids, None, None, view)
        else:
            new = self.new
            view = cache.prefill_view(new.slots, new.lengths, new.counts, width=self.width)
            hidden = model.encode(self.ids.view(-1, self.width), view).flatten(0, 1)
        return HiddenStates(states=hidden, firsts=self.firsts), view


def causal_inputs(
    items: Sequence[Prefill | Decode] | Sequence[Verify], device: torch.device, *, is_padded: bool, width: int = 0
) -> CausalInputs:
    """The inputs of a pass over the tokens that the host knows. Padded rows have at least `width` positions; single
    tokens need no padding, and count as padded."""
    counts = tuple(item.count if isinstance(item, Verify) else len(item.ids) for item in items)
    texts = [(*item.ids, *item.given[: item.drafted]) if isinstance(item, Verify) else item.ids for item in items]
    width = max(width, *counts) if is_padded or max(counts) == 1 else 0
    sizes = [width or count for count in counts]
    firsts = [0, *accumulate(sizes)][:-1]
    ids = [token for text, size in zip(texts, sizes, strict=True) for token in (*text, *(0,) * (size - len(text)))]
    new = NewTokens(slots=tuple(i.slot for i in items), lengths=tuple(i.at for i in items), counts=counts)
    return CausalInputs(new=new, ids=upload(ids, device), firsts=firsts, width=width)


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasRows:
    """The canvases of a pass, padded to the widest: `groups` of one length each with their inputs. In exact mode there
    are more rows than items, see `exact`."""

    groups: Sequence[Sequence[Denoise]]
    inputs: Sequence[CanvasInputs]
    ids: torch.Tensor  # [rows, width]
    soft: torch.Tensor  # [rows, width, hidden]
    canvases: Canvases
    sharing: frozenset[SequenceId]  # sequences whose causal tokens the pass reads, too


def alike(items: Iterable[Some], trait: Callable[[Some], object]) -> list[list[Some]]:
    """Group items by a trait that all rows of one pass share."""
    groups: dict[object, list[Some]] = {}
    for item in items:
        groups.setdefault(trait(item), []).append(item)
    return list(groups.values())


def padded_together(items: Sequence[Work], tokens: Callable[[Work], int]) -> list[list[Work]]:
    """Groups for passes whose rows are padded: of at most PADDED_POSITIONS positions, or of a single row."""
    groups: list[list[Work]] = []
    for item in sorted(items, key=tokens, reverse=True):
        if groups and (len(groups[-1]) + 1) * tokens(groups[-1][0]) <= PADDED_POSITIONS:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def padded_rows(parts: Sequence[torch.Tensor], rows: int, width: int) -> torch.Tensor:
    """Parts [some rows, canvas, ...] of unequal length as one tensor [rows, width, ...], padded with zeros."""
    if len(parts) == 1 and parts[0].shape[:2] == (rows, width):
        return parts[0]
    padded_parts = parts[0].new_zeros((rows, width, *parts[0].shape[2:]))
    first = 0
    for part in parts:
        padded_parts[first : first + len(part), : part.shape[1]] = part
        first += len(part)
    return padded_parts


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedPass:
    """One queued pass: its rows, its report [rows, numbers] on the device, and the canvases it produces. The last
    number of a canvas or a token is the surprise of its prompt. `commit` writes the first tokens of every row, as many
    as it is told, to the cache; None: the pass has written them."""

    items: Sequence[Item]
    report: torch.Tensor
    commit: Callable[[Sequence[int]], None] | None = None
    width: int = 0
    canvases: Sequence[Canvas] = ()
    constraint_s: float = 0.0
    labels: Sequence[tuple[float, ...]] = ()  # per row of a canvas pass
    holes: Sequence[Probabilities] = ()  # likewise
    sharing: frozenset[SequenceId] = frozenset()  # sequences whose causal tokens a pass of canvases has read, too
    prompts: torch.Tensor | None = None  # [prompt tokens of all rows, numbers], see `autoregressive.score_prompts`

    @property
    def numbers(self) -> torch.Tensor:
        """All numbers that the host needs: those of the report, then those of the prompts."""
        report = self.report.flatten()
        return report if self.prompts is None else torch.cat([report, self.prompts.flatten()])

    def rows(self, numbers: Sequence[float]) -> Iterator[tuple[Item, Sequence[float], Sequence[float]]]:
        """Every item with its numbers of the report and those of its prompt, from `numbers` on the host."""
        width, at = self.report.shape[1], self.report.numel()
        for row, item in enumerate(self.items):
            behind = at
            if self.prompts is not None and isinstance(item, Prefill | Decode):
                behind += len(item.next_ids) * self.prompts.shape[1]
            yield item, numbers[row * width : (row + 1) * width], numbers[at:behind]
            at = behind

    def canvas_result(self, item: Denoise, row: int, numbers: Sequence[float]) -> CanvasResult:
        """The result of the canvas in this row, from its numbers on the host."""
        return canvas_result(
            item,
            numbers[:-1],
            self.labels[row],
            holes=self.holes[row],
            prompt_surprise=numbers[-1],
            shares_pass=item.sequence in self.sharing,
        )


Outcome = QueuedPass | RowFault


def drafts_of(outcomes: Sequence[Outcome], batch: Batch) -> dict[SequenceId, torch.Tensor]:
    """The canvases [canvas] that the steps of verified sequences draft, on the device."""
    drafting = {item.sequence for item in batch.verifications if item.draft is not None}
    return {
        item.sequence: outcome.report[row]
        for outcome in outcomes
        if isinstance(outcome, QueuedPass)
        for row, item in enumerate(outcome.items)
        if isinstance(item, Denoise) and item.sequence in drafting
    }


def finite(hidden: HiddenStates, counts: Sequence[int]) -> torch.Tensor:
    """[rows, 1] of float64: 0, or NaN if any value of a row is not finite."""
    of_tokens = (hidden.states - hidden.states).sum(-1)
    rows = [of_tokens[first : first + count].sum() for first, count in zip(hidden.firsts, counts, strict=True)]
    return torch.stack(rows)[:, None].double()
