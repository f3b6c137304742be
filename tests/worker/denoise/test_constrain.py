"""Constrained rows are the same whether their logits are reduced in C or in torch, or read by the exact engine."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from diffusion_worker.constraints.compile import compile_schema
from diffusion_worker.constraints.inference import native
from diffusion_worker.constraints.inference.matcher import Matcher, open_matcher
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.constraints.tokens.token_trie import build_token_trie
from diffusion_worker.denoise import constrain
from diffusion_worker.denoise.constrain import Constrained
from diffusion_worker.denoise.score import CanvasLogits, Sampling, score
from diffusion_worker.types.requests import DenoisingParams, Truncation
from diffusion_worker.types.step_batch import Denoise

CANVAS = 24
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "size": {"type": "integer"}, "kind": {"enum": ["left", "right"]}},
    "required": ["name", "size", "kind"],
    "additionalProperties": False,
}
LETTERS = tuple(bytes([byte]) for byte in range(32, 127))
PAIRS = tuple(one + two for one in LETTERS[::2] for two in LETTERS[::3])
TOKENS = (b"", b"", *LETTERS, *PAIRS)
WAYS = ("exact", "torch", *(["native"] if native.NATIVE is not None else []))


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    automaton = compile_tokens(compile_schema(SCHEMA).automaton, build_token_trie(TOKENS, (1,), 0))
    assert automaton is not None
    return open_matcher(automaton, 100)


def constrained(
    way: str,
    monkeypatch: pytest.MonkeyPatch,
    items: list[Denoise],
    scale: float = 3.0,
    cap: float = 0.0,
    progress: Callable[[], None] = lambda: None,
) -> Constrained:
    """A step over random logits, with inference in the given way."""
    monkeypatch.setattr(constrain, "_is_on_host", lambda _: way != "torch")
    monkeypatch.setattr(constrain, "NATIVE", native.NATIVE if way == "native" else None)
    random = torch.Generator().manual_seed(1)
    rows = len(items)
    raw = scale * torch.randn((rows, CANVAS, len(TOKENS)), generator=random)
    logits = CanvasLogits(raw=raw, cap=cap, temperature=torch.linspace(0.6, 0.9, rows))
    scores = score(logits, Sampling(keys=(), uniforms=None, asked={}))
    uniforms = torch.rand((rows, CANVAS), generator=random)
    return constrain.constrain(items, scores, scores.surest.clone(), lambda: uniforms, progress)


def item(matcher: Matcher | None, **changes: Any) -> Denoise:
    plain = Denoise(
        sequence=0,
        slot=0,
        at=0,
        block=0,
        step=3,
        opens=False,
        seed=0,
        denoising=DenoisingParams(canvas_length=CANVAS),
        matcher=matcher,
    )
    return replace(plain, **changes)


def assert_same(found: Constrained, exact: Constrained) -> None:
    for name in ("surest", "sampled", "forced"):
        ours, theirs = ((getattr(each, name, None)) for each in (found, exact))
        ours, theirs = (found.scores.surest, exact.scores.surest) if ours is None else (ours, theirs)
        assert torch.equal(ours, theirs), name
    torch.testing.assert_close(found.scores.entropy, exact.scores.entropy, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(found.scores.logprob, exact.scores.logprob)


@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize("temperature", [None, 0.0, 0.5, 1.0, 1.7])
def test_a_row_is_the_same_however_its_logits_are_read(
    way: str, temperature: float | None, matcher: Matcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same best path, sample, entropies and forced tokens for the same uniform numbers, with and without pinned
    tokens, near the deadline, and with rows beside it that have no constraint."""
    prefix = tuple(TOKENS.index(bytes([byte])) for byte in b'{"n')
    whole = tuple(TOKENS.index(bytes([byte])) for byte in b'{"name": "'.ljust(CANVAS, b"x"))
    items = [
        item(matcher, temperature=temperature),
        item(None),
        item(matcher, temperature=temperature, pinned_prefix=prefix),
        item(matcher, temperature=temperature, pinned_prefix=whole),
        item(matcher, temperature=temperature, pinned_prefix=prefix[:1], near_deadline=True),
        item(replace(matcher, tokens_left=CANVAS + 14), temperature=temperature),
    ]
    for scale, cap in ((0.0, 0.0), (3.0, 30.0), (12.0, 0.0)):
        exact = constrained("exact", monkeypatch, items, scale, cap)
        assert_same(constrained(way, monkeypatch, items, scale, cap), exact)


@pytest.mark.parametrize("way", WAYS)
def test_a_row_with_nan_is_left_at_zero_and_its_neighbour_is_not(
    way: str, matcher: Matcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *args, **kwargs: _with_nan(draw(*args, **kwargs)))
    found = constrained(way, monkeypatch, [item(matcher), item(matcher)])
    assert not found.scores.surest[0].any()
    assert not found.sampled[0].any()
    assert found.scores.surest[1].any()


def _with_nan(logits: torch.Tensor) -> torch.Tensor:
    logits[0, 5, 70] = torch.nan
    return logits


def test_rows_that_need_their_logits_are_inferred_from_them(matcher: Matcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A truncation counts tokens, and a forbidden token is scored anew: on every device they are read exactly."""
    items = [
        item(matcher, truncation=Truncation(top_k=3), temperature=0.8),
        item(replace(matcher, forbidden=frozenset({TOKENS.index(b"{")}))),
    ]
    exact = constrained("exact", monkeypatch, items)
    for way in WAYS[1:]:
        assert_same(constrained(way, monkeypatch, items), exact)


def test_rows_on_several_threads_are_those_of_one(matcher: Matcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """And `progress` is called for each of them."""
    items = [item(matcher, seed=row, temperature=0.7) for row in range(5)]
    found, finished = [], []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", partial(int, threads))
        monkeypatch.setattr(constrain.os, "cpu_count", partial(int, threads))
        found.append(constrained(WAYS[-1], monkeypatch, items, progress=partial(finished.append, threads)))
    assert finished == [1] * 5 + [3] * 5
    assert torch.equal(found[0].scores.surest, found[1].scores.surest)
    assert torch.equal(found[0].sampled, found[1].sampled)
    assert np.array_equal(found[0].scores.entropy.numpy(), found[1].scores.entropy.numpy())
