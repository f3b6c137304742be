"""Compares the answers of two versions of the code: `python -m training.answers FILE` writes those of one version,
`python -m training.answers NEW --compare OLD [--check]` compares them.

The samples, seeds and batches are those of `training.evaluate`, in every decoding mode. A run that is interrupted goes
on where it stopped. `--check` demands that at least 99 % of the answers of a row are the same, and that none has
significantly fewer correct ones (McNemar's exact test).
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from diffusion_worker.engine.loop import run
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.requests import DecodingMode
from training.evaluate import CASES, OUT_OF_DISTRIBUTION, ROWS, Case, requests_of, samples_of
from training.mcnemar import compared
from training.requests import text_of

SAME_BAR: Final = 0.99
P_BAR: Final = 0.05
Answers = Mapping[str, Any]  # of a case in one mode: see `answers_of`


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An answer that differs."""

    number: int  # of the sample
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The answers of two versions to the same requests of a case, in one decoding mode."""

    case: str
    mode: str
    answers: int
    right_before: int
    right_after: int
    gained: int  # correct in the second version only
    lost: int
    p: float
    differences: tuple[Difference, ...]

    @property
    def same(self) -> float:
        """Share of the answers that are the same, token by token."""
        return 1.0 - len(self.differences) / self.answers

    @property
    def is_cleared(self) -> bool:
        """Whether both bars are reached."""
        return self.same >= SAME_BAR and (self.right_after >= self.right_before or self.p >= P_BAR)


def main() -> int:
    """Run the command line; returns 1 if `--check` finds a row below its bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="answers of this version (JSON lines)")
    parser.add_argument("--compare", type=Path, metavar="OLD", help="compare FILE with OLD instead of writing it")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a row is below its bars")
    parser.add_argument("--checkpoint", default="checkpoints/twolane-tiny", help="folder or hub id")
    parser.add_argument("--count", type=int, default=200, help="samples a row; half as many out of distribution")
    options = parser.parse_args()
    if options.compare is None:
        write(load(options.checkpoint, LoadOptions(threads=1, dtype="float32")), options.file, options.count)
        return 0
    found = [compare(old, new) for old, new in _pairs(read(options.compare), read(options.file))]
    show(found)
    return int(options.check and not (found and all(each.is_cleared for each in found)))


def write(model: DiffusionModel, file: Path, count: int) -> None:
    """Append the answers of every case and mode that `file` lacks."""
    known = {(each["case"], each["mode"]) for each in (read(file) if file.exists() else ())}
    for case, mode in [(case, mode) for case in (*CASES, OUT_OF_DISTRIBUTION) for mode in DecodingMode]:
        if (case.name, mode.value) not in known:
            answers = answers_of(model, case, mode, count // 2 if case is OUT_OF_DISTRIBUTION else count)
            with file.open("a") as out:
                out.write(json.dumps(answers) + "\n")


def answers_of(model: DiffusionModel, case: Case, mode: DecodingMode, count: int) -> Answers:
    """The answers to `count` samples of a case, as token ids, as text, and whether each is correct."""
    samples = samples_of(case, count)
    answers = run(model, requests_of(model, case, mode, samples), max_num_seqs=ROWS)
    texts = list(map(text_of, answers))
    return {
        "case": case.name,
        "mode": mode.value,
        "ids": [list(answer.ids) for answer in answers],
        "texts": texts,
        "right": [text == sample.answer for text, sample in zip(texts, samples, strict=True)],
    }


def read(file: Path) -> list[Answers]:
    """The rows of a file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def _pairs(before: Sequence[Answers], after: Sequence[Answers]) -> Iterator[tuple[Answers, Answers]]:
    """The rows of both files by case and mode. Raises ValueError if they differ in rows or in samples."""
    old, new = ({(each["case"], each["mode"]): each for each in rows} for rows in (before, after))
    if old.keys() != new.keys():
        raise ValueError(f"rows of one file only: {sorted(old.keys() ^ new.keys())}")
    yield from ((old[key], new[key]) for key in old)


def compare(before: Answers, after: Answers) -> Comparison:
    """Compare two rows of the same samples."""
    gained, lost, p = compared(before["right"], after["right"])
    ids = enumerate(zip(before["ids"], after["ids"], strict=True))
    return Comparison(
        case=before["case"],
        mode=before["mode"],
        answers=len(before["ids"]),
        right_before=sum(before["right"]),
        right_after=sum(after["right"]),
        gained=gained,
        lost=lost,
        p=p,
        differences=tuple(
            Difference(number=number, before=before["texts"][number], after=after["texts"][number])
            for number, (old, new) in ids
            if old != new
        ),
    )


def show(found: Sequence[Comparison]) -> None:
    """Print the table, and every answer that differs."""
    table = Table(title="Answers of two versions", title_justify="left")
    for heading in ("", "mode", "same", "of", "right before", "now", "gained", "lost", "p"):
        table.add_column(heading, justify="left" if heading in ("", "mode") else "right")
    for each in found:
        figures = (each.answers - len(each.differences), each.answers, each.right_before, each.right_after)
        colour = "green" if each.is_cleared else "red"
        table.add_row(
            f"[{colour}]{each.case}", each.mode, *map(str, (*figures, each.gained, each.lost)), f"{each.p:.2f}"
        )
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    for each in found:
        for difference in each.differences:
            console.print(f"{each.case}, {each.mode}:", json.dumps(asdict(difference)), markup=False)


if __name__ == "__main__":
    sys.exit(main())
