"""Verified decoding: the causal pass of the same weights chooses, at every position of a draft, the token that reading
left to right would choose there; the draft counts up to the first difference.

Self-speculation without probabilities of proposals: every choice is reading's own, with the same random draw (seed and
absolute position), rules and constraint, so whatever proposed the draft, the answer is that of reading. Related:
speculative decoding (Leviathan et al. 2023, arXiv:2211.17192), FreeDave (arXiv:2510.00294), S2D2 (arXiv:2603.25702).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from diffusion_worker.denoise.autoregressive import LOGITS_AT_ONCE, choose, token_result, top_of
from diffusion_worker.denoise.draws import Draws
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.step_batch import Decode, TokenResult, Verify, VerifyResult

_FOLLOWED_AT_ONCE = 16  # positions of rows whose rules follow the draft: masks beyond a difference are wasted


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalPass:
    """A causal pass over known tokens and drafts: ids [rows, width], and their hidden states [rows, width, hidden]."""

    items: Sequence[Verify]
    ids: torch.Tensor
    hidden: torch.Tensor


def verify(
    model: DiffusionModel, seen: CausalPass, draws: Draws, progress: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """Choose the tokens that follow the known ones, and those that follow the draft.

    Returns [rows, width, 1 + numbers of `decode`] of float64: the token of the pass, then what follows it. The ids of
    rows with a constraint or penalties are fetched once, and their choices once per _FOLLOWED_AT_ONCE positions;
    nothing else waits for the device. `progress` is called for each such row.
    """
    chooser = _Chooser(model, seen, draws)
    chooser.choose_plain([row for row, item in enumerate(seen.items) if not _is_followed(item)])
    if followed := [row for row, item in enumerate(seen.items) if _is_followed(item)]:
        chooser.follow(followed, progress)
    return chooser.report


def verify_result(item: Verify, row: Sequence[float], end_ids: Sequence[int], *, width: int) -> VerifyResult:
    """One row of the report of `verify`, on the host, for a pass of `width` positions: tokens up to the first that
    differs from the draft, or an end token. A log-probability is not finite where the model returned NaN or
    infinity."""
    tokens: list[TokenResult] = []
    numbers, accepted = len(row) // width, 0
    for place in range(len(item.ids) - 1, item.count):
        result = token_result(item, row[place * numbers + 1 : (place + 1) * numbers])
        tokens.append(result)
        if len(tokens) > item.drafted or result.id != int(row[(place + 1) * numbers]):
            break
        accepted += 1
        if result.id in end_ids:
            break
    closes = len(tokens) == item.closes_with or tokens[-1].id in end_ids
    cached = len(item.ids) + len(tokens) - 1 if closes else 0
    return VerifyResult(sequence=item.sequence, tokens=tuple(tokens), cached=cached, accepted=accepted)


def _is_followed(item: Verify) -> bool:
    """Whether the rules at a position depend on the draft before it."""
    return item.matcher is not None or item.penalties is not None


class _Chooser:
    """Fills the report [rows, width, numbers] of a pass."""

    def __init__(self, model: DiffusionModel, seen: CausalPass, draws: Draws) -> None:
        self._model, self._seen, self._draws = model, seen, draws
        self._top = top_of(seen.items, model.info.vocab_size)
        self._block = max(1, LOGITS_AT_ONCE // model.info.vocab_size)  # positions
        self.report = torch.zeros(*seen.ids.shape, 4 + 2 * self._top, dtype=torch.double, device=model.device)
        self.report[..., 0] = seen.ids.double()

    def choose_plain(self, rows: Sequence[int]) -> None:
        """Choose at all positions of rows whose rules are the same everywhere, a block of positions at a time. Only
        sampling depends on the position."""
        items = self._seen.items
        rules = {row: _rule(items[row]) for row in rows}
        places = [(row, place) for row in rows for place in range(len(items[row].ids) - 1, items[row].count)]
        for first in range(0, len(places), self._block):
            some = places[first : first + self._block]
            self._choose_block(
                {
                    (row, place): _moved(rules[row], place) if items[row].temperature else rules[row]
                    for row, place in some
                }
            )

    def follow(self, rows: Sequence[int], progress: Callable[[], None]) -> None:
        """Choose for rows whose constraint or penalties follow the draft, as long as they agree with it."""
        items = self._seen.items
        drafts = dict(zip(rows, self._seen.ids[upload(rows, self._model.device)].tolist(), strict=True))
        rules = {row: _rule(items[row]) for row in rows}
        first = 0
        while rows:
            along: dict[tuple[int, int], Decode] = {}
            for row in rows:
                known = len(items[row].ids)
                for number in range(first, min(first + _FOLLOWED_AT_ONCE, items[row].drafted + 1)):
                    rule = _after(rules[row], drafts[row][known + number - 1]) if number else rules[row]
                    if rule is None:
                        break
                    along[row, known + number - 1] = rules[row] = rule
                progress()
            agreed = dict.fromkeys(rows, 0)
            for (row, place), token in zip(along, self._choose(along).tolist() if along else (), strict=True):
                agreed[row] += place + 1 < items[row].count and token == drafts[row][place + 1]
            first += _FOLLOWED_AT_ONCE
            rows = [row for row in rows if agreed[row] == _FOLLOWED_AT_ONCE]

    def _choose(self, rules: Mapping[tuple[int, int], Decode]) -> torch.Tensor:
        """Choose at these (row, position) places by their rules, a block at a time; returns the ids [places]."""
        places = list(rules)
        blocks = (places[first : first + self._block] for first in range(0, len(places), self._block))
        return torch.cat([self._choose_block({place: rules[place] for place in block}) for block in blocks])

    def _choose_block(self, rules: Mapping[tuple[int, int], Decode]) -> torch.Tensor:
        rows, positions = upload(list(rules), self._model.device).unbind(-1)
        logits = self._model.logits(self._seen.hidden[rows, positions])
        chosen = choose(list(rules.values()), logits, self._draws, top=self._top)
        self.report[rows, positions, 1:] = chosen
        return chosen[:, 0]


def _rule(item: Verify) -> Decode:
    """The rules at the first position."""
    return Decode(
        sequence=item.sequence,
        slot=item.slot,
        ids=item.ids,
        at=item.at,
        seed=item.seed,
        temperature=item.temperature,
        truncation=item.truncation,
        penalties=item.penalties,
        matcher=item.matcher,
        top_logprobs=item.top_logprobs,
    )


def _moved(rule: Decode, place: int) -> Decode:
    """The rules at a position of the pass; rules that do not follow the draft differ in the random draw only."""
    return replace(rule, at=rule.at + place + 1 - len(rule.ids))


def _after(rule: Decode, token: int) -> Decode | None:
    """The rules one token of the draft later; None where the constraint does not allow it, or ends with it."""
    matcher, penalties = rule.matcher, rule.penalties
    if matcher is not None:
        try:
            matcher = matcher.after((token,))
        except ValueError:
            return None
        if matcher.is_done:
            return None
    if penalties is not None:
        counted = Counter(dict(penalties.output))
        counted[token] += 1
        penalties = replace(penalties, output=tuple(counted.items()))
    return replace(rule, at=rule.at + 1, matcher=matcher, penalties=penalties)
