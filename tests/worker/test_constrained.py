"""Constraints through the whole loop: for any model output, the answer satisfies the constraint and closes in time."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator

from benchmarks.vocabularies import shipped
from diffusion_worker.constraints.compile import compile_constraint
from diffusion_worker.constraints.inference.matcher import Matcher, open_matcher
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.denoise import logit_reads
from diffusion_worker.denoise.score import CanvasLogits
from diffusion_worker.engine.loop import Capacity, Loop, run
from diffusion_worker.errors import NotFinite
from diffusion_worker.models.interface import CanvasContext
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.events import BlockSealed, Faulted, Finished, FinishReason, PrefixStable
from diffusion_worker.types.requests import DecodingMode, DenoisingParams, GenerationRequest, Penalties
from training.vocabulary import encode_text

WORDS = shipped()
VOCABULARY = WORDS.read()
DENOISING = DenoisingParams(canvas_length=16, steps=4)
ORDER = {
    "type": "object",
    "properties": {
        "item": {"type": "string", "minLength": 1, "maxLength": 30},
        "count": {"type": "integer", "minimum": 1, "maximum": 99},
        "gift": {"type": "boolean"},
    },
    "required": ["item", "count"],
    "additionalProperties": False,
}
CONSTRAINTS = {
    "an object": Constraint(kind="json_schema", value=ORDER),
    "a list": Constraint(kind="json_schema", value={"type": "array", "items": {"enum": ["a", "bc", 1]}, "minItems": 3}),
    "any object": Constraint(kind="json_object"),
    "a pattern": Constraint(kind="regex", value=r"[A-Z]{2}-\d{3}(é|日)?"),
    "a choice": Constraint(kind="choice", value=["yes", "no", "perhaps"]),
    "a template": Constraint(
        kind="template", value={"text": "Dear {{name}}, {{word}}!", "holes": {"word": {"choice": ["hi", "bye"]}}}
    ),
}


OF_SHIPPED: dict[str, Any] = {
    "vocab_size": VOCABULARY.size,
    "end_ids": VOCABULARY.end_ids,
    "pad_id": VOCABULARY.padding_id,
    "denoising": DENOISING,
}


class NoisyNet(ToyModel):
    """A model with a different output at every pass."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(**OF_SHIPPED)
        self._noise = torch.Generator().manual_seed(seed)

    def denoise(self, canvas: torch.Tensor, soft: torch.Tensor, context: CanvasContext) -> torch.Tensor:
        return self._any(super().denoise(canvas, soft, context))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._any(super().logits(hidden))

    def _any(self, like: torch.Tensor) -> torch.Tensor:
        return 6 * torch.randn(like.shape, generator=self._noise)


@cache
def automaton_of(name: str) -> TokenAutomaton:
    automaton = compile_tokens(compile_constraint(CONSTRAINTS[name]).automaton, VOCABULARY)
    assert automaton is not None
    return automaton


def cursor_of(name: str, max_tokens: int) -> Matcher:
    return open_matcher(automaton_of(name), max_tokens)


def request(name: str | None, *, max_tokens: int = 120, **changes: Any) -> GenerationRequest:
    """A request with the constraint of this name; None: unconstrained."""
    one = GenerationRequest(prompt_ids=(20, 21), max_tokens=max_tokens, seed=0, denoising=DENOISING)
    return replace(one, matcher=cursor_of(name, max_tokens) if name else None, **changes)


def is_member(name: str, ids: Sequence[int]) -> bool:
    """Checked by jsonschema or a regular expression, never by the automaton."""
    text = WORDS.text(list(ids)).decode()
    match CONSTRAINTS[name]:
        case Constraint(kind="json_schema", value=schema):
            return Draft202012Validator(schema).is_valid(json.loads(text))
        case Constraint(kind="json_object"):
            return isinstance(json.loads(text), dict)
        case Constraint(kind="choice", value=choices):
            return text in choices
        case Constraint(kind="regex", value=pattern):
            return re.fullmatch(pattern, text) is not None
    return re.fullmatch(r"Dear [^\n\r]+, (hi|bye)!", text) is not None


@pytest.mark.parametrize("decoding_mode", DecodingMode)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_noise_becomes_valid_beside_rows_without_a_constraint(decoding_mode: DecodingMode, seed: int) -> None:
    names = [name for name in CONSTRAINTS for _ in range(2)]
    temperatures = [None, 0.0, 0.7, 1.5]
    requests = [
        request(name, seed=seed + place, decoding_mode=decoding_mode, temperature=temperatures[place % 4])
        for place, name in enumerate(names)
    ]
    free = request(None, max_tokens=40, decoding_mode=decoding_mode)
    answers = run(NoisyNet(seed), [*requests, free], max_num_seqs=6)
    for name, answer in zip(names, answers, strict=False):
        assert isinstance(answer.end, Finished), answer.end
        assert answer.end.reason is FinishReason.STOP
        assert is_member(name, answer.ids), (name, WORDS.text(list(answer.ids)))
    assert isinstance(answers[-1].end, Finished)


@pytest.mark.parametrize("decoding_mode", DecodingMode)
@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("spare", [0, 1, 17])
def test_a_text_closes_however_tight_max_tokens_is(name: str, decoding_mode: DecodingMode, spare: int) -> None:
    automaton = automaton_of(name)
    room = int(automaton.distance[automaton.start]) + spare
    for seed in range(3):
        [answer] = run(NoisyNet(seed), [request(name, max_tokens=room, seed=seed, decoding_mode=decoding_mode)])
        assert isinstance(answer.end, Finished)
        assert answer.end.reason is FinishReason.STOP
        assert answer.end.usage.completion_tokens <= room
        assert is_member(name, answer.ids)


class HalfSureNet(NoisyNet):
    """A model that is certain of the beginning of its first canvas, and has a different output at every pass after
    it."""

    def __init__(self, beginning: str, seed: int) -> None:
        super().__init__(seed)
        self._beginning = torch.tensor(encode_text(beginning))

    def denoise(self, canvas: torch.Tensor, soft: torch.Tensor, context: CanvasContext) -> torch.Tensor:
        logits = super().denoise(canvas, soft, context)
        if int(context.positions[0, 0]) == 2:  # after the prompt
            logits[0, torch.arange(len(self._beginning)), self._beginning] = 40.0
        return logits


@pytest.mark.parametrize("seed", range(4))
def test_what_was_told_early_stays_and_leads_to_a_valid_text(seed: int) -> None:
    """Every later step keeps the text that the client has received."""
    loop = Loop(HalfSureNet('{"item":"la', seed), Capacity(max_context=200))
    loop.add(request("an object", stream_prefix=True, seed=seed, denoising=replace(DENOISING, steps=8)))
    emitted = [event for event in turned(loop) if isinstance(event, BlockSealed | PrefixStable)]
    assert isinstance(emitted[0], PrefixStable)
    text = [token for event in emitted for token in event.ids]
    assert tuple(text[: len(emitted[0].ids)]) == emitted[0].ids
    assert is_member("an object", text)


@pytest.mark.parametrize("decoding_mode", [DecodingMode.DIFFUSION, DecodingMode.VERIFIED])
@pytest.mark.parametrize("step", range(1, 9))
def test_at_a_deadline_the_text_is_made_whole(
    step: int, decoding_mode: DecodingMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any step of the deadline, on the first or the second canvas."""
    clock = [0.0]
    monkeypatch.setattr("diffusion_worker.engine.loop.time.monotonic", lambda: clock[0])
    for name in CONSTRAINTS:
        loop = Loop(NoisyNet(step), Capacity(max_context=400))
        clock[0] = 0.0
        loop.add(request(name, max_tokens=300, deadline_s=step - 0.5, decoding_mode=decoding_mode))
        ids: list[int] = []
        end = None
        for event in turned(loop, clock):
            if isinstance(event, BlockSealed):
                ids += event.ids
            elif isinstance(event, Finished):
                end = event
        assert end is not None
        assert end.reason is FinishReason.STOP
        assert is_member(name, ids), WORDS.text(ids)
        assert end.usage.completion_tokens <= 300


def test_near_its_deadline_a_text_that_can_close_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A canvas of 16 has room for a whole object of any kind."""
    clock = [0.0]
    monkeypatch.setattr("diffusion_worker.engine.loop.time.monotonic", lambda: clock[0])
    for seed in range(5):
        loop = Loop(NoisyNet(seed), Capacity(max_context=400))
        clock[0] = 0.0
        loop.add(request("any object", max_tokens=300, seed=seed, deadline_s=2.5))
        *_, end = turned(loop, clock)
        assert isinstance(end, Finished)
        assert end.reason is FinishReason.STOP


def test_forced_tokens_earn_no_confidence() -> None:
    """The model gives every token of noise a small probability; in a choice of one text, every token is forced."""
    automaton = compile_tokens(compile_constraint(Constraint(kind="choice", value=["perhaps"])).automaton, VOCABULARY)
    assert automaton is not None
    for decoding_mode in DecodingMode:
        one = replace(request(None, decoding_mode=decoding_mode), matcher=open_matcher(automaton, 120))
        [answer] = run(NoisyNet(), [one])
        assert WORDS.text(list(answer.ids)) == b"perhaps"
        assert answer.end.usage.confidence is None
        [answer] = run(NoisyNet(), [request("a choice", decoding_mode=decoding_mode)])
        assert answer.end.usage.confidence is not None
        assert 0.0 < answer.end.usage.confidence < 1.0


def test_who_shares_the_batch_does_not_matter() -> None:
    """A constrained row draws its own numbers."""
    model = ToyModel(lambda prompt: prompt * 3, **OF_SHIPPED)
    one, others = request("a pattern", seed=5), [request("an object", seed=1), request(None, max_tokens=30)]
    [alone] = run(model, [one])
    together = run(model, [*others, one], max_num_seqs=3)
    assert together[-1].ids == alone.ids


def test_constrained_rows_are_read_in_blocks_with_the_same_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of the device is planned for blocks, not for copies of all logits."""
    requests = [request("an object", seed=1), request("a pattern", penalties=Penalties(frequency=0.5))]
    whole = run(NoisyNet(), requests)
    read, sizes = CanvasLogits.annealed_at, list[int]()

    def noted(logits: CanvasLogits, row: int, positions: slice) -> torch.Tensor:
        block = read(logits, row, positions)
        sizes.append(len(block))
        return block

    monkeypatch.setattr(CanvasLogits, "annealed_at", noted)
    monkeypatch.setattr(logit_reads, "AT_ONCE", 3 * VOCABULARY.size // 2)
    assert [answer.ids for answer in run(NoisyNet(), requests)] == [answer.ids for answer in whole]
    assert max(sizes) == 3, "positions: of two rows with one and a half each"


def turned(loop: Loop, clock: list[float] | None = None) -> Iterator[Any]:
    """All events until the loop is idle; every iteration takes one second of the clock."""
    while loop.scheduler.has_work:
        happened = loop.step()
        yield from (event for _, event in happened)
        if clock:
            clock[0] += 1.0


class PoisonedNet(NoisyNet):
    """Returns NaN for rows whose prompt begins with 99."""

    def denoise(self, canvas: torch.Tensor, soft: torch.Tensor, context: CanvasContext) -> torch.Tensor:
        logits = super().denoise(canvas, soft, context)
        logits[context.layers[0].keys[:, 0, 0, 0] == 99] = float("nan")
        return logits


def test_a_constrained_row_of_nan_faults_alone() -> None:
    requests = [request("an object"), request("an object", prompt_ids=(99, 20)), request("a choice")]
    answers = run(PoisonedNet(), requests, max_num_seqs=3)
    assert isinstance(answers[1].end, Faulted)
    assert isinstance(answers[1].end.error, NotFinite)
    assert is_member("an object", answers[0].ids)
    assert is_member("a choice", answers[2].ids)


def test_constant_shapes_take_constraints_too() -> None:
    """Dummy rows have no constraint, and a request gives the same text in any batch."""
    texts = []
    for others in (0, 2):
        loop = Loop(ToyModel(lambda p: p * 3, **OF_SHIPPED), Capacity(max_context=200, max_num_seqs=3, is_exact=True))
        sequence = loop.add(request("an object", seed=4))
        for seed in range(others):
            loop.add(request("a pattern" if seed else None, seed=seed))
        ids: list[int] = []
        while loop.scheduler.has_work:
            for who, event in loop.step():
                if who == sequence and isinstance(event, BlockSealed):
                    ids += event.ids
        texts.append(tuple(ids))
    assert texts[0] == texts[1]
    assert is_member("an object", texts[0])
