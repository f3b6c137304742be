"""Benchmark of decisions: `python -m benchmarks.decisions [--check] [--json FILE]`.

Asks questions of all three types about held-out orders twice, with the same weights (those for decisions), as many
rows at once and the same prompts: from the holes of canvases, as `/v1/decisions` does, and as one constrained JSON
object for each text, read left to right. TEXTS texts are asked the same questions; WARM_TEXTS others of each set go
before the clock starts, so that both ways find the questions in the prefix cache from the first text on.

The majority class is that of each question. The expected calibration error compares the probability of the most likely
answer with its accuracy.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.vocabularies import SHIPPED, shipped
from diffusion_worker.constraints.compile import compile_schema
from diffusion_worker.constraints.inference.matcher import open_matcher
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.engine.loop import Capacity, Loop
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.events import BlockSealed, Faulted, Finished, Usage
from diffusion_worker.types.requests import DecodingMode, GenerationRequest
from training.calibration import calibration_error
from training.tasks.decisions import QUESTIONS, DecisionSample, canvases_of, decision, question_set
from training.tasks.sample import SampleSpec
from training.vocabulary import decode_ids, encode_prompt
from twolane.process.decisions.questions import QuestionKind
from twolane.process.decisions.wording import prompt_of, schema_of

ROWS: Final = 8  # at once, of both ways
IN_FLIGHT: Final = 2 * ROWS  # texts that run or wait
TEXTS: Final = 40  # with the same questions
WARM_TEXTS: Final = 3  # the second one shows which beginning prompts share, and the third one finds it cached
PREFIX_SLOTS: Final = 32  # of both ways
BINS: Final = 15
JUDGED_DRAW: Final = 2  # of the shipped weights, and of no others
MIN_RATIO, MIN_ABOVE_MAJORITY, MAX_BELOW_JSON, MAX_ECE = 5.0, 0.20, 0.01, 0.05
Shares = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Accuracies of one type of question; `majority` is that of the most frequent answer to each question."""

    kind: str
    count: int
    canvas: float
    left_to_right: float
    majority: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Rates are per second of processor time; passes are those over canvases, or decoded tokens of a row."""

    questions: int
    kinds: tuple[Kind, ...]
    canvas_per_s: float
    left_to_right_per_s: float
    canvas_passes: float  # per canvas
    left_to_right_passes: float  # per question
    ece: float

    @property
    def ratio(self) -> float:
        """Questions per second of both ways."""
        return self.canvas_per_s / self.left_to_right_per_s

    def mean(self, name: str) -> float:
        """An accuracy over all questions."""
        total: float = sum(getattr(kind, name) * kind.count for kind in self.kinds)
        return total / self.questions

    @property
    def missed(self) -> list[str]:
        """The bars that are not reached."""
        canvas, json_, majority = (self.mean(name) for name in ("canvas", "left_to_right", "majority"))
        bars = {
            f"{MIN_RATIO:g} times the questions per second": self.ratio >= MIN_RATIO,
            f"{MIN_ABOVE_MAJORITY:.0%} above the majority class": canvas >= majority + MIN_ABOVE_MAJORITY,
            f"within {MAX_BELOW_JSON:.0%} of left to right": canvas >= json_ - MAX_BELOW_JSON,
            f"ECE of at most {MAX_ECE:g}": self.ece <= MAX_ECE,
        }
        return [bar for bar, is_reached in bars.items() if not is_reached]


def main() -> int:
    """Run the command line; returns 1 if `--check` finds a figure below its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default=str(SHIPPED), help="folder or hub id")
    parser.add_argument("--texts", type=int, default=9 * TEXTS, help=f"texts, with {QUESTIONS} questions each")
    parser.add_argument(
        "--draw",
        type=int,
        default=JUDGED_DRAW,
        help=f"texts and questions (default: {JUDGED_DRAW}; earlier ones judged earlier weights)",
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a figure is below its bar")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args()
    found = measure(load(options.checkpoint, LoadOptions(threads=1)), options.texts, options.draw)
    show(found)
    if options.json:
        options.json.write_text(json.dumps(asdict(found) | {"ratio": found.ratio}, indent=1) + "\n")
    return int(options.check and bool(found.missed))


def measure(model: DiffusionModel, texts: int, draw: int = JUDGED_DRAW) -> Figures:
    """Ask the questions about `texts` held-out texts in both ways. Each `draw` has texts and questions of its own."""
    of = f"/{draw}" if draw else ""
    samples = [_sample(number, f"decisions/{number}{of}", of) for number in range(texts)]
    warm = [_sample(number, f"warm/{number}{of}", of) for number in range(texts) if number % TEXTS < WARM_TEXTS]
    rights = [index for sample in samples for index in sample.right]
    topics = [
        (number // TEXTS, question.text) for number, sample in enumerate(samples) for question in sample.questions
    ]
    kinds = [question.kind for sample in samples for question in sample.questions]
    shares, canvas_s, passes = by_canvas(model, samples, warm)
    chosen, json_s, tokens = by_json(model.for_templates, samples, warm)
    most = {topic: Counter(r for r, t in zip(rights, topics, strict=True) if t == topic) for topic in set(topics)}
    best = [max(range(len(each)), key=each.__getitem__) for each in shares]
    canvas = [guess == right for guess, right in zip(best, rights, strict=True)]
    read = [guess == right for guess, right in zip(chosen, rights, strict=True)]
    majority = [most[topic].most_common(1)[0][0] == right for topic, right in zip(topics, rights, strict=True)]

    def kind_of(kind: QuestionKind) -> Kind:
        of_kind = [index for index, each in enumerate(kinds) if each is kind]
        canvas_, read_, majority_ = (
            statistics.fmean(each[index] for index in of_kind) for each in (canvas, read, majority)
        )
        return Kind(kind=kind, count=len(of_kind), canvas=canvas_, left_to_right=read_, majority=majority_)

    return Figures(
        questions=len(rights),
        kinds=tuple(map(kind_of, QuestionKind)),
        canvas_per_s=len(rights) / canvas_s,
        left_to_right_per_s=len(rights) / json_s,
        canvas_passes=passes,
        left_to_right_passes=tokens / len(rights),
        ece=calibration_error([max(each) for each in shares], canvas, BINS),
    )


def _sample(number: int, seed: str, of: str) -> DecisionSample:
    """A held-out text with the questions of the set to which this number belongs."""
    asked = question_set(random.Random(f"questions/{number // TEXTS}{of}"))
    return decision(random.Random(seed), SampleSpec(split="test"), asked)


def by_canvas(
    model: DiffusionModel, samples: Sequence[DecisionSample], warm: Sequence[DecisionSample] = ()
) -> tuple[list[Shares], float, float]:
    """(probabilities of each question, seconds of processor time, mean passes of a canvas)."""
    found = _complete(model, *([_canvas_requests(model, sample) for sample in each] for each in (samples, warm)))
    shares = [each for sealed in found.sealed for event in sealed for each in event.holes]
    return shares, found.took_s, sum(usage.denoising_steps for usage in found.usages) / len(found.usages)


def by_json(
    model: DiffusionModel, samples: Sequence[DecisionSample], warm: Sequence[DecisionSample] = ()
) -> tuple[list[int], float, int]:
    """(chosen option of each question, processor time without compiling the schemas, decoded tokens)."""
    found = _complete(model, *([[_json_request(model, sample)] for sample in each] for each in (samples, warm)))
    chosen: list[int] = []
    for sample, sealed in zip(samples, found.sealed, strict=True):
        document: dict[str, Any] = json.loads(decode_ids([token for event in sealed for token in event.ids]))
        for number, question in enumerate(sample.questions, 1):
            chosen.append(question.labels().index(document[str(number)]))
    return chosen, found.took_s, sum(usage.completion_tokens for usage in found.usages)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Completed:
    """The sealed blocks of each chain of requests, the usage of each request, and the processor time of all."""

    sealed: list[list[BlockSealed]]
    usages: list[Usage]
    took_s: float


Chains = Sequence[list[GenerationRequest]]


def _complete(model: DiffusionModel, chains: Chains, warm: Chains) -> _Completed:
    """Complete the requests set by set, those to warm up with first. Each goes behind its predecessor in the chain, as
    in the server: the next canvas finds its prompt in the cache."""
    longest = max(len(request.prompt_ids) + request.max_tokens for chain in (*chains, *warm) for request in chain)
    capacity = Capacity(max_num_seqs=ROWS, max_waiting=len(chains), max_context=longest, prefix_slots=PREFIX_SLOTS)
    loop = Loop(model, capacity)
    found = _Completed(sealed=[], usages=[], took_s=0.0)
    for number, first in enumerate(range(0, len(chains), TEXTS)):
        for chain in warm[number * WARM_TEXTS : (number + 1) * WARM_TEXTS]:
            _run(loop, [chain])
        started = time.process_time()
        sealed, usages = _run(loop, chains[first : first + TEXTS])
        took_s = found.took_s + time.process_time() - started
        found = _Completed(sealed=found.sealed + sealed, usages=found.usages + usages, took_s=took_s)
    return found


def _run(loop: Loop, chains: Chains) -> tuple[list[list[BlockSealed]], list[Usage]]:
    """Complete the chains, IN_FLIGHT of them at a time."""
    sealed: list[list[BlockSealed]] = [[] for _ in chains]
    usages: list[Usage] = []
    todo = [list(reversed(chain)) for chain in chains]
    fresh = iter(range(len(chains)))
    chain_of = {loop.add(todo[number].pop()): number for number in islice(fresh, IN_FLIGHT)}
    while loop.scheduler.has_work:
        for sequence, event in loop.step():
            assert not isinstance(event, Faulted), event
            number = chain_of[sequence]
            if isinstance(event, BlockSealed):
                sealed[number].append(event)
            elif isinstance(event, Finished):
                usages.append(event.usage)
                following = number if todo[number] else next(fresh, None)
                if following is not None:
                    chain_of[loop.add(todo[following].pop())] = following
    return sealed, usages


def _canvas_requests(model: DiffusionModel, sample: DecisionSample) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            prompt_ids=canvas.prompt_ids,
            max_tokens=model.info.denoising.canvas_length,
            seed=0,
            denoising=replace(model.info.denoising, steps=2),
            template=canvas.template,
        )
        for canvas, _ in canvases_of(sample, model.info)
    ]


def _json_request(model: DiffusionModel, sample: DecisionSample) -> GenerationRequest:
    questions = sample.questions
    labels = tuple(question.labels() for question in questions)
    automaton = _automaton(labels)
    longest = json.dumps({str(number): max(each, key=len) for number, each in enumerate(labels, 1)})
    max_tokens = 2 * len(longest)
    return GenerationRequest(
        prompt_ids=tuple(encode_prompt(prompt_of(sample.text, questions, labels))),
        max_tokens=max_tokens,
        seed=0,
        denoising=model.info.denoising,
        decoding_mode=DecodingMode.AUTOREGRESSIVE,
        matcher=open_matcher(automaton, max_tokens),
    )


@cache
def _automaton(labels: tuple[tuple[str, ...], ...]) -> TokenAutomaton:
    automaton = compile_tokens(compile_schema(schema_of(labels)).automaton, shipped().read())
    assert automaton is not None
    return automaton


def show(found: Figures) -> None:
    """Print the figures."""
    table = Table(title=f"Accuracy on {found.questions} questions", title_justify="left")
    for heading in ("", "questions", "canvas", "left to right", "majority class"):
        table.add_column(heading, justify="left" if not heading else "right")
    for kind in found.kinds:
        table.add_row(
            kind.kind, str(kind.count), f"{kind.canvas:.1%}", f"{kind.left_to_right:.1%}", f"{kind.majority:.1%}"
        )
    means = (f"{found.mean(name):.1%}" for name in ("canvas", "left_to_right", "majority"))
    table.add_row("all", str(found.questions), *means)
    console = Console(width=110)
    console.print(table)
    console.print(
        f"questions per second of processor time: {found.canvas_per_s:.0f} from canvases"
        f" ({found.canvas_passes:.2f} passes each),"
        f" {found.left_to_right_per_s:.0f} left to right ({found.left_to_right_passes:.1f} tokens each):"
        f" {found.ratio:.1f} x. ECE {found.ece:.3f}."
    )
    for bar in found.missed:
        console.print(f"missed: {bar}")


if __name__ == "__main__":
    sys.exit(main())
