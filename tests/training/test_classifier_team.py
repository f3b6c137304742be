"""A team's own requests: reading them, and what training on them gains."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from gateway.classifier.weights import read_model
from gateway.enums import Task
from training.classifier.lines import read_lines
from training.classifier.team import folds_of, read_labelled, read_log, train_team
from twolane.classifier import main
from twolane.process.errors import ConfigurationError


def written(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) if isinstance(row, dict) else row for row in rows) + "\n")
    return path


def test_labelled_requests_are_read_as_the_gateway_reads_them(tmp_path: Path) -> None:
    turns = [("system", "Be brief."), ("user", "a toast"), ("assistant", "To Rosa!"), ("user", "shorter")]
    messages = [{"role": role, "content": text} for role, text in turns]
    path = written(
        tmp_path / "p.jsonl",
        {"messages": messages, "task": "edit"},
        {"prompt": "2+2?", "task": "reasoning", "also_ok": ["chat"]},
    )
    one, other = read_labelled(path)
    assert (one.system, one.earlier, one.answer, one.user) == ("Be brief.", "a toast", "To Rosa!", "shorter")
    assert (other.user, other.line.task, other.line.also_ok) == ("2+2?", Task.REASONING, (Task.CHAT,))


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ("{", "Expecting"),
        ("[]", "indices"),
        ({"prompt": "x"}, "missing 'task'"),
        ({"task": "edit"}, "missing 'prompt'"),
        ({"prompt": "x", "task": "juggle"}, "juggle"),
        ({"prompt": "x", "task": "edit", "also_ok": 3}, "iterable"),
        ({"messages": 3, "task": "edit"}, "messages"),
    ],
)
def test_a_line_that_is_no_labelled_request_is_named(tmp_path: Path, row: Any, cause: str) -> None:
    path = written(tmp_path / "p.jsonl", {"prompt": "x", "task": "edit"}, row)
    with pytest.raises(ConfigurationError, match=r"p\.jsonl:2: .*" + cause):
        read_labelled(path)


def test_a_log_gives_requests_with_feedback(tmp_path: Path) -> None:
    """Of the task that was named, or of the classified one if the answer was good; without text there is no request."""
    prompts = [{"event": "prompt", "request_id": name, "user": f"text {name}"} for name in "abcd"]
    decisions = [{"id": name, "task": "chat"} for name in "abcde"]
    feedback = [
        {"event": "feedback", "request_id": name, "rating": rating, "task": task}
        for name, rating, task in (
            ("a", "bad", "edit"),
            ("b", "good", None),
            ("c", "bad", None),
            ("e", "good", "edit"),
        )
    ]
    found = read_log(written(tmp_path / "log.jsonl", *prompts, *decisions, *feedback))
    assert [(each.user, each.line.task) for each in found] == [("text a", Task.EDIT), ("text b", Task.CHAT)]


@pytest.mark.slow
def test_training_on_a_teams_words_is_right_where_the_shipped_weights_are_not() -> None:
    few, shipped = list(read_lines())[::200], read_model()
    line = replace(few[0], writer="team", form="complete", material="none", also_ok=())
    from training.classifier.compose import Request

    words = {Task.TRANSLATE: "zorbify", Task.AGENT: "frobnicate"}
    team = [
        Request(line=replace(line, task=task, number=number), user=f"{word} the blorp {number}")
        for task, word in words.items()
        for number in range(12)
    ]
    found = train_team(team, few, shipped, threshold=0.8, copies=1, epochs=4)
    assert found.before.accuracy < 0.5
    assert found.after.accuracy > 0.8
    assert found.model.temperature == shipped.temperature


def test_equal_requests_are_left_out_together(tmp_path: Path) -> None:
    """Otherwise a fit to one copy would know the other, and what it gains would be too high."""
    rows = [{"prompt": f"Shorten number {each % 20}{'.' * (each // 20)}", "task": "edit"} for each in range(60)]
    folds = folds_of(read_labelled(written(tmp_path / "p.jsonl", *rows)))
    words = [{each.user.rstrip(".") for each in fold} for fold in folds]
    assert [len(fold) for fold in folds] == [21, 21, 18]
    assert sum(map(len, words)) == len(set().union(*words)) == 20


@pytest.mark.parametrize("rows", [1, 40])
def test_too_few_requests_are_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: int
) -> None:
    path = written(tmp_path / "p.jsonl", *[{"prompt": "x", "task": "edit"}] * rows)
    assert main(["train", "--prompts", str(path), "--out", str(tmp_path / "o.npz")]) == 2
    assert "at least 10" in capsys.readouterr().err


def test_one_source_of_requests_is_required(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--out", str(tmp_path / "o.npz")])
    assert ended.value.code == 2
    assert "--prompts" in capsys.readouterr().err
