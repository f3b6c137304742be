"""Benchmark of offered tools with the embedded checkpoint: `python -m benchmarks.tools [--check] [--json FILE]`.

The serving loop answers held-out samples of the checkpoint's tasks, without tools and with an offered tool that the
task does not need (`auto`; the prompt is unchanged, so that only the constraint differs). It counts correct answers and
calls, and then the valid calls among required ones sampled at temperature 1.5.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import jsonschema
from rich.console import Console
from rich.table import Table

from benchmarks.vocabularies import SHIPPED, shipped
from diffusion_worker.constraints.compile import compile_constraint
from diffusion_worker.constraints.inference.matcher import open_matcher
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.constraints.tool_calls import OPEN_TAG, Syntax, Thought
from diffusion_worker.engine.loop import run
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.text.tagged_tool_calls import TaggedCallReader
from diffusion_worker.text.tool_calls import ToolCall
from diffusion_worker.types.requests import DecodingMode
from training.requests import request_for, text_of
from training.tasks.registry import TASKS
from training.tasks.sample import Sample, SampleSpec

NAMES: Final = ("extraction", "sudoku", "clean-up")
CALL_TOKENS: Final = 250
WEATHER: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1, "maxLength": 40},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "units": {"type": "array", "items": {"enum": ["C", "F"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["city", "units"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Counts of answers for one task and decoding mode."""

    task: str
    decoding_mode: DecodingMode
    count: int
    alone: int  # correct without a tool
    beside: int  # correct with an offered tool
    called: int  # calls of an offered tool that the task does not need
    valid: int  # valid calls where a call is required


def offer(*, must: bool) -> TokenAutomaton:
    """The tool that is offered to the embedded checkpoint."""
    function = {"name": "weather", "parameters": WEATHER, "field": "tools[0].function.parameters"}
    rules = {"syntax": Syntax.TAGGED, "thought": Thought.NONE, "required": must, "parallel": False, "text": None}
    compiled = compile_constraint(Constraint(kind="tools", value={"functions": [function], **rules}))
    automaton = compile_tokens(compiled.automaton, shipped().read())
    assert automaton is not None
    return automaton


def measure(model: DiffusionModel, task: str, decoding_mode: DecodingMode, *, count: int, seed: int = 5) -> Row:
    """Answer the same samples three times: without a tool, with an offered tool, with a required call."""
    rng = random.Random(seed)
    samples = [TASKS[task](rng, SampleSpec(split="test")) for _ in range(count)]
    alone = _answers(model, samples, decoding_mode)
    beside = _answers(model, samples, decoding_mode, offer(must=False))
    due = _answers(model, samples, decoding_mode, offer(must=True), max_tokens=CALL_TOKENS, temperature=1.5)
    return Row(
        task=task,
        decoding_mode=decoding_mode,
        count=count,
        alone=_right(samples, alone),
        beside=_right(samples, beside),
        called=sum(OPEN_TAG in text for text in beside),
        valid=sum(map(is_valid, due)),
    )


def is_valid(text: str) -> bool:
    """Whether a text is exactly one call, with arguments that jsonschema accepts."""
    reader = TaggedCallReader()
    found = [part for part in (*reader.feed(text), reader.flush()) if part]
    return [
        isinstance(part, ToolCall) and jsonschema.Draft202012Validator(WEATHER).is_valid(json.loads(part.arguments))
        for part in found
    ] == [True]


def main() -> int:
    """Command line; returns 1 if `--check` finds that an offered tool loses correct answers, or an invalid required
    call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="number of samples per row")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a result is below its bar")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    model = load(str(SHIPPED), LoadOptions(threads=1))
    rows = [
        measure(model, task, decoding_mode, count=options.count) for task in NAMES for decoding_mode in DecodingMode
    ]
    _show(rows)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return int(options.check and any(row.beside < row.alone or row.valid < row.count for row in rows))


def _answers(
    model: DiffusionModel,
    samples: Sequence[Sample],
    decoding_mode: DecodingMode,
    automaton: TokenAutomaton | None = None,
    **changes: Any,
) -> list[str]:
    requests = [
        replace(request_for(model, sample, decoding_mode, seed=place), **changes)
        for place, sample in enumerate(samples)
    ]
    if automaton is not None:
        requests = [replace(request, matcher=open_matcher(automaton, request.max_tokens)) for request in requests]
    return [text_of(answer) for answer in run(model, requests)]


def _right(samples: Sequence[Sample], answers: Sequence[str]) -> int:
    return sum(text == sample.answer for text, sample in zip(answers, samples, strict=True))


def _show(rows: Sequence[Row]) -> None:
    table = Table(
        "task",
        "reading",
        "samples",
        "correct without tools",
        "correct with an offered tool",
        "calls",
        "valid when required",
    )
    for row in rows:
        counts = (row.count, row.alone, row.beside, row.called, row.valid)
        table.add_row(row.task, row.decoding_mode.value, *map(str, counts))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
