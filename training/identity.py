"""Compares verified answers with autoregressive ones: `python -m training.identity [--check] [--json FILE]`.

The serving loop completes the same requests in both modes, with the same weights and seeds: held-out prompts of all
tasks, and random texts, some longer than the sliding window. In fp32 and fp64 all answers must be equal, greedy and at
temperature 1. In bf16 two passes round differently: where a greedy answer first differs, the two best logits of the
token must be closer than the two passes can move them apart.
"""

import argparse
import itertools
import json
import random
import string
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import torch
from rich.console import Console
from rich.table import Table

from diffusion_worker.engine.loop import Answer, run
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.events import Finished
from diffusion_worker.types.requests import DecodingMode, GenerationRequest
from training.requests import request_for
from training.tasks.registry import TASKS
from training.tasks.sample import Sample, SampleSpec

ROWS: Final = 16  # in a batch
# Temperatures by data type: a sampled answer in bf16 may differ wherever its random number falls between two tokens.
SETTINGS: Final = {"float64": (0.0, 1.0), "float32": (0.0, 1.0), "bfloat16": (0.0,)}
MIX: Final = (("extraction", 0.0), ("extraction", 1.0), ("clean-up", 0.0), ("clean-up", 1.0), ("sudoku", 0.0))
# Bytes of random texts: more than the window of the shipped checkpoint, and few, to which it is unsure what to answer.
TEXTS: Final = ((260, 700), (5, 40))


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first token in which two answers differ."""

    at: int  # tokens before it
    gap: float  # between the two best logits left to right
    moved: float  # largest difference of a logit between the two passes

    @property
    def is_rounding(self) -> bool:
        """Whether rounding can have changed the order of the two best tokens: each moves by at most `moved`."""
        return self.gap <= 2.0 * self.moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Answers of both modes to the same requests."""

    dtype: str
    temperature: float
    answers: int
    identical: int
    several_canvases: int  # answers
    beyond_window: int  # answers with a prompt longer than the window
    differences: tuple[Difference, ...]

    @property
    def is_cleared(self) -> bool:
        """Whether all answers are equal or, in bf16, as equal as rounding allows."""
        if self.dtype == "bfloat16":
            return all(each.is_rounding for each in self.differences)
        return self.identical == self.answers


def main() -> int:
    """Run the command line; returns 1 if `--check` finds a difference that rounding does not explain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="checkpoints/twolane-tiny", help="folder or hub id")
    parser.add_argument("--count", type=int, default=120, help="requests for each data type and temperature")
    parser.add_argument("--dtype", choices=tuple(SETTINGS), action="append", help="only this data type; repeatable")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a difference is not due to rounding")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args()
    found = []
    for dtype in options.dtype or SETTINGS:
        model = load(options.checkpoint, LoadOptions(threads=1, dtype=dtype))
        found += [compare(model, requests_for(model, options.count, each)) for each in SETTINGS[dtype]]
    show(found)
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
    return int(options.check and not all(each.is_cleared for each in found))


def requests_for(model: DiffusionModel, count: int, temperature: float) -> list[GenerationRequest]:
    """Autoregressive requests of all tasks in turn, and random texts; each with its own seed."""
    mode = DecodingMode.AUTOREGRESSIVE
    drawn = (request_for(model, _sample(number), mode, seed=number) for number in range(count))
    return [replace(each, temperature=temperature) for each in drawn]


def _sample(number: int) -> Sample:
    dice, kind = random.Random(f"identity/{number}"), number % (len(MIX) + len(TEXTS))
    if kind >= len(MIX):
        length = dice.randint(*TEXTS[kind - len(MIX)])
        return Sample(prompt="".join(dice.choices(string.ascii_lowercase + " ", k=length)), answer="")
    task, invented = MIX[kind]
    return TASKS[task](dice, SampleSpec(split="test", invented=invented))


def compare(model: DiffusionModel, requests: Sequence[GenerationRequest]) -> Comparison:
    """Complete autoregressive requests of one temperature in both modes, in batches."""
    verifying = [replace(each, decoding_mode=DecodingMode.VERIFIED) for each in requests]
    read, verified = (run(model, each, max_num_seqs=ROWS) for each in (requests, verifying))
    pairs = list(zip(requests, read, verified, strict=True))
    canvas = model.info.denoising.canvas_length
    window = min((layer.window for layer in model.kv_layers if layer.window), default=model.info.max_context)
    return Comparison(
        dtype=str(model.dtype).removeprefix("torch."),
        temperature=requests[0].temperature or 0.0,
        answers=len(requests),
        identical=sum(_ending(mine) == _ending(theirs) for _, theirs, mine in pairs),
        several_canvases=sum(len(theirs.ids) > canvas for _, theirs, _ in pairs),
        beyond_window=sum(len(request.prompt_ids) > window for request, _, _ in pairs),
        differences=tuple(
            difference(model, request, theirs.ids, mine.ids)
            for request, theirs, mine in pairs
            if _ending(mine) != _ending(theirs)
        ),
    )


def _ending(answer: Answer) -> tuple[tuple[int, ...], str]:
    """What must be equal."""
    assert isinstance(answer.end, Finished), answer.end
    return answer.ids, answer.end.reason


def difference(
    model: DiffusionModel, request: GenerationRequest, read: Sequence[int], verified: Sequence[int]
) -> Difference:
    """The first difference of two answers to a request, with both passes repeated up to it."""
    pairs = zip((*read, -1), (*verified, -1), strict=False)
    at = next(place for place, (mine, theirs) in enumerate(pairs) if mine != theirs)
    text = (*request.prompt_ids, *read[:at])
    one_by_one, at_once = (
        _logits(model, text, prompt=len(request.prompt_ids), width=width)
        for width in (1, request.denoising.canvas_length)
    )
    first, second = one_by_one.topk(2).values.tolist()
    return Difference(at=at, gap=first - second, moved=float((one_by_one - at_once).abs().max()))


def _logits(model: DiffusionModel, text: tuple[int, ...], *, prompt: int, width: int) -> torch.Tensor:
    """Logits [vocab] of the token that follows a text, whose answer is read in passes of `width` tokens."""
    cache = KvCache(model.kv_layers, slots=1, slot_tokens=len(text), dtype=model.dtype, device=model.device)
    borders = [0, *range(prompt, len(text), width), len(text)]
    with torch.inference_mode():
        for first, last in itertools.pairwise(borders):
            view = cache.prefill_view([0], [first], [last - first])
            hidden = model.encode(torch.tensor([text[first:last]], device=model.device), view)
            cache.seal(view)
        return model.logits(hidden[0, -1]).double()


def show(found: Sequence[Comparison]) -> None:
    """Print the table."""
    table = Table(title="Verified answers against autoregressive ones", title_justify="left")
    headings = ("", "temperature", "answers", "identical", "several canvases", "beyond the window", "gap", "rounding")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    for each in found:
        worst = max(each.differences, key=lambda one: one.gap / max(one.moved, 1e-12), default=None)
        table.add_row(
            f"[{'green' if each.is_cleared else 'red'}]{each.dtype}",
            f"{each.temperature:g}",
            str(each.answers),
            f"{each.identical / each.answers:.1%}",
            str(each.several_canvases),
            str(each.beyond_window),
            "" if worst is None else f"{worst.gap:.4f}",
            "" if worst is None else f"{worst.moved:.4f}",
        )
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    console.print("Gap of the two best logits and rounding of a logit, at the difference with the largest ratio.")


if __name__ == "__main__":
    sys.exit(main())
