"""Answers of two versions: written once, compared token by token, and held against both bars."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.requests import DecodingMode
from training import answers
from training.answers import Comparison, answers_of, compare
from training.evaluate import CASES
from training.mcnemar import p_value

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "twolane-tiny"


def row(texts: list[str], right: list[bool]) -> dict[str, Any]:
    return {"case": "a", "mode": "diffusion", "ids": [[*map(ord, text)] for text in texts], "texts": texts,
            "right": right}  # fmt: skip


def differing(answers: int, *, lost: int, gained: int, other: int = 0) -> Comparison:
    """Of answers that were all correct or all wrong before."""
    before = ["x"] * answers
    changed = lost + gained + other
    was_right = [False] * gained + [True] * (answers - gained)
    is_right = [True] * gained + [False] * lost + [True] * (answers - gained - lost)
    return compare(row(before, was_right), row(["y"] * changed + before[changed:], is_right))


def test_answers_are_the_same_if_all_tokens_are() -> None:
    found = compare(row(["ab", "c"], [True, False]), row(["ab", "d"], [True, True]))
    assert (found.same, found.right_before, found.right_after, found.gained, found.lost) == (0.5, 1, 2, 1, 0)
    assert [(each.number, each.before, each.after) for each in found.differences] == [(1, "c", "d")]


@pytest.mark.parametrize(
    ("answers", "lost", "gained", "is_cleared"),
    [
        (1000, 5, 5, True),
        (1000, 0, 10, True),
        (1000, 5, 0, True),  # 5 of 5: p = 0.06
        (1000, 6, 0, False),  # 6 of 6: p = 0.03
        (2000, 10, 1, False),
        (100, 1, 1, False),  # 98 % are the same
    ],
)
def test_both_bars_must_be_reached(answers: int, lost: int, gained: int, is_cleared: bool) -> None:
    assert differing(answers, lost=lost, gained=gained).is_cleared is is_cleared


def test_the_paired_test_is_mcnemars() -> None:
    """Six of six pairs in one direction give 2 / 2**6; equally many in both directions give 1."""
    assert p_value(6, 0) == pytest.approx(2 / 64)
    assert p_value(3, 3) == p_value(0, 0) == 1.0


def test_a_run_goes_on_where_it_stopped_and_is_compared_with_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = load(SHIPPED, LoadOptions(threads=1)), tmp_path / "answers.jsonl"
    monkeypatch.setattr(answers, "CASES", CASES[:1])
    monkeypatch.setattr(answers, "OUT_OF_DISTRIBUTION", CASES[2])
    first = answers_of(model, CASES[0], DecodingMode.VERIFIED, 2)
    assert first["right"] == [True, True]
    file.write_text(json.dumps({**first, "texts": ["known", "known"]}) + "\n")
    answers.write(model, file, count=2)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 2 * len(DecodingMode)
    assert sum(line["texts"] == ["known", "known"] for line in lines) == 1, "it is not completed again"

    def code(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["answers", str(file), *arguments, "--check"])
        return answers.main()

    assert code("--compare", str(file)) == 0
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({**line, "ids": [[1] for _ in line["ids"]]}) for line in lines))
    assert code("--compare", str(other)) == 1
    assert '"before": "known"' in capsys.readouterr().out
    other.write_text(json.dumps(lines[0]))
    with pytest.raises(ValueError, match="rows of one file only"):
        code("--compare", str(other))
