"""Development figures of decisions: `python -m benchmarks.decision_reading [--draw NAME]`.

They may choose what is trained: the texts are those of the training split, and the seeds are not those of
`benchmarks.decisions`, which judges. The table shows the accuracy for each wording. The figure below it shows whether
questions are read: the part of the variance of the log-odds of yes that lies between the predicates of one text. It is
0 if all predicates of a text get the same answer, and about 1 if their answers have nothing in common.
"""

import argparse
import math
import random
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.decisions import BINS, Shares, by_canvas
from benchmarks.vocabularies import SHIPPED
from diffusion_worker.models.loader import LoadOptions, load
from training.calibration import calibration_error
from training.tasks.decisions import DecisionSample, decision, question_set
from training.tasks.sample import SampleSpec
from twolane.process.decisions.questions import QuestionKind

SETS, TEXTS = 14, 24  # sets of questions, and texts that are asked the same set
WORDS: Final = 3  # that tell wordings apart
_LEAST: Final = 1e-6  # probability, so that log-odds are finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One question and its answer. `usual` is the most frequent right option of the question."""

    wording: str
    right: int
    usual: int
    shares: Shares

    @property
    def is_right(self) -> bool:
        """Whether the likeliest option is the right one."""
        return max(range(len(self.shares)), key=self.shares.__getitem__) == self.right


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default=str(SHIPPED), help="folder or hub id")
    parser.add_argument("--draw", default="a", help="name of the texts and questions")
    parser.add_argument("--sets", type=int, default=SETS, help=f"sets of questions, each asked about {TEXTS} texts")
    options = parser.parse_args()
    samples = [each for number in range(options.sets) for each in sample_set(options.draw, number)]
    shares, _, _ = by_canvas(load(options.checkpoint, LoadOptions(threads=1)), samples)
    show(answered(samples, shares), own_part(predicate_odds(samples, shares)))
    return 0


def sample_set(draw: str, number: int, texts: int = TEXTS) -> list[DecisionSample]:
    """Texts of the training split with the same questions."""
    seed = f"development/{draw}/{number}"
    asked = question_set(random.Random(seed))
    return [decision(random.Random(f"{seed}/{text}"), SampleSpec(), asked) for text in range(texts)]


def answered(samples: Sequence[DecisionSample], shares: Sequence[Shares]) -> list[Answered]:
    """All questions in order; texts with equal questions share what is usual."""
    rights: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
    for sample in samples:
        rights.setdefault(_asked(sample), []).append(sample.right)
    usual = {
        asked: [Counter(each).most_common(1)[0][0] for each in zip(*found, strict=True)]
        for asked, found in rights.items()
    }
    left = iter(shares)
    return [
        Answered(wording=_wording(sample, at), right=right, usual=usual[_asked(sample)][at], shares=next(left))
        for sample in samples
        for at, right in enumerate(sample.right)
    ]


def predicate_odds(samples: Sequence[DecisionSample], shares: Sequence[Shares]) -> list[list[float]]:
    """The log-odds of yes of the predicates of each text."""
    left = iter(shares)
    found = [[(question.kind, next(left)) for question in sample.questions] for sample in samples]
    return [[_log_odds(each[0]) for kind, each in text if kind is QuestionKind.PREDICATE] for text in found]


def own_part(odds: Sequence[Sequence[float]]) -> float:
    """The part of the variance that lies within texts; texts with one predicate or none say nothing."""
    several = [text for text in odds if len(text) > 1]
    within = statistics.fmean(statistics.variance(text) for text in several)
    total = statistics.variance([each for text in several for each in text])
    return within / total if total else 0.0


def show(found: Sequence[Answered], part: float) -> None:
    """Print the figures."""
    table = Table(title=f"Accuracy on {len(found)} questions", title_justify="left")
    for heading in ("wording", "questions", "right", "most frequent answer", "confidence", "ECE"):
        table.add_column(heading, justify="left" if heading == "wording" else "right")
    for wording in (*sorted({each.wording for each in found}), ""):
        some = [each for each in found if wording in ("", each.wording)]
        sure, right = [max(each.shares) for each in some], [each.is_right for each in some]
        usual = statistics.fmean(each.right == each.usual for each in some)
        figures = (f"{statistics.fmean(right):.1%}", f"{usual:.1%}", f"{statistics.fmean(sure):.1%}")
        table.add_row(wording or "all", str(len(some)), *figures, f"{calibration_error(sure, right, BINS):.3f}")
    console = Console(width=110)
    console.print(table)
    console.print(f"variance of predicates between those of one text: {part:.0%}")


def _asked(sample: DecisionSample) -> tuple[str, ...]:
    return tuple(question.text for question in sample.questions)


def _wording(sample: DecisionSample, at: int) -> str:
    question = sample.questions[at]
    return f"{question.kind}: {' '.join(question.text.split()[:WORDS])} ..."


def _log_odds(probability: float) -> float:
    kept = min(max(probability, _LEAST), 1 - _LEAST)
    return math.log(kept / (1 - kept))


if __name__ == "__main__":
    sys.exit(main())
