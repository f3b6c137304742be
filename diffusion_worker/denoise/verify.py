"""Verified decoding: the causal pass of the same weights chooses, at every position of a draft, the token that reading
left to right would choose there; the draft counts up to the first difference.

Self-speculation without probabilities of proposals: every choice is reading's own, with the same random draw (seed and
absolute position), rules and constraint, so whatever proposed the draft, the answer is that of reading. Related:
speculative decoding (Leviathan et al. 2023, arXiv:2211.17192), FreeDave (arXiv:2510.00294), S2D2 (arXiv:2603.25702).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from diffusion_worker.denoise.autoregressive import choose
from diffusion_worker.denoise.draws import Draws
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.step_batch import Decode, TokenResult, Verify, VerifyResult

_LOGITS_AT_ONCE = 1 << 24  # numbers: 64 MiB in fp32
_FOLLOWED_AT_ONCE = 16  # positions of rows whose rules follow the draft: masks beyond a difference are wasted
NUMBERS = 4  # per position of a report: the token of the pass; the next id, its log-probability, whether it is forced


def verify(
    model: DiffusionModel,
    items: Sequence[Verify],
    ids: torch.Tensor,
    hidden: torch.Tensor,
    draws: Draws,
    progress: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Choose the tokens that follow the known ones, from the hidden states [rows, width, hidden] of ids [rows, width].

    Returns [rows, width * NUMBERS] of float64, see `verify_result`. The ids of rows with a constraint or penalties are
    fetched once, and their choices once per _FOLLOWED_AT_ONCE positions; nothing else waits for the device.
    """
    report = torch.zeros(*ids.shape, NUMBERS, dtype=torch.double, device=model.device)
    report[..., 0] = ids.double()
    plain = [row for row, item in enumerate(items) if not _is_followed(item)]
    block = max(1, _LOGITS_AT_ONCE // (max(1, len(plain)) * model.info.vocab_size))
    for first in range(0, max((items[row].count for row in plain), default=0), block):
        places = [
            (row, place)
            for row in plain
            for place in range(max(first, len(items[row].ids) - 1), min(first + block, items[row].count))
        ]
        if not places:
            continue
        _choose_at(model, items, places, {}, hidden, draws, report)
    if len(plain) < len(items):
        _follow(model, items, ids, hidden, draws, report, progress)
    return report.flatten(1)


def verify_result(item: Verify, row: Sequence[float], end_ids: Sequence[int]) -> VerifyResult:
    """One row of the report of `verify`, on the host: tokens up to the first that differs from the draft, or an end
    token. A log-probability is not finite where the model returned NaN or infinity."""
    tokens: list[TokenResult] = []
    for place in range(len(item.ids) - 1, item.count):
        _, token, logprob, is_forced = row[place * NUMBERS : (place + 1) * NUMBERS]
        result = TokenResult(sequence=item.sequence, id=int(token), logprob=logprob, is_forced=bool(is_forced))
        tokens.append(result)
        if len(tokens) > item.drafted or result.id in end_ids or result.id != int(row[(place + 1) * NUMBERS]):
            break
    closes = len(tokens) == item.closes_with or tokens[-1].id in end_ids
    cached = len(item.ids) + len(tokens) - 1 if closes else 0
    return VerifyResult(sequence=item.sequence, tokens=tuple(tokens), cached=cached)


def _is_followed(item: Verify) -> bool:
    """Whether the rules at a position depend on the draft before it."""
    return item.matcher is not None or item.penalties is not None


def _follow(
    model: DiffusionModel,
    items: Sequence[Verify],
    ids: torch.Tensor,
    hidden: torch.Tensor,
    draws: Draws,
    report: torch.Tensor,
    progress: Callable[[], None],
) -> None:
    """Choose for the rows whose constraint or penalties follow the draft, as long as they agree with it."""
    rows = [row for row, item in enumerate(items) if _is_followed(item)]
    drafts = dict(zip(rows, ids[upload(rows, model.device)].tolist(), strict=True))
    rules = {row: _rule(items[row]) for row in rows}
    done = dict.fromkeys(rows, 0)  # tokens chosen
    while rows:
        along: dict[tuple[int, int], Decode] = {}
        for row in rows:
            item, known = items[row], len(items[row].ids)
            for number in range(done[row], min(done[row] + _FOLLOWED_AT_ONCE, item.drafted + 1)):
                rule = _after(rules[row], drafts[row][known + number - 1]) if number else rules[row]
                if rule is None:
                    break
                along[row, known + number - 1] = rules[row] = rule
            progress()
        agreed = dict.fromkeys(rows, 0)
        if along:
            chosen = _choose_at(model, items, list(along), along, hidden, draws, report)
            for (row, place), token in zip(along, chosen.tolist(), strict=True):
                agreed[row] += place + 1 < items[row].count and token == drafts[row][place + 1]
        done = {row: done[row] + _FOLLOWED_AT_ONCE for row in rows}
        rows = [row for row in rows if agreed[row] == _FOLLOWED_AT_ONCE]


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


def _choose_at(
    model: DiffusionModel,
    items: Sequence[Verify],
    places: Sequence[tuple[int, int]],
    along: dict[tuple[int, int], Decode],
    hidden: torch.Tensor,
    draws: Draws,
    report: torch.Tensor,
) -> torch.Tensor:
    """Choose at these (row, position) places and write them to the report; returns the ids [places]. `along`: rules
    that follow the draft."""
    rows, positions = upload(places, model.device).unbind(-1)
    rules = [along.get(place) or _moved(_rule(items[place[0]]), place[1]) for place in places]
    chosen = choose(rules, model.logits(hidden[rows, positions]), draws)
    report[rows, positions, 1:] = chosen
    return chosen[:, 0]
