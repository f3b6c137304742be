"""Requests by many writers: every line can be read, and no two are alike."""

import json
from pathlib import Path

import pytest

from gateway.enums import Task
from training.classifier.lines import LINES, main, read_lines, too_alike

REQUESTS = Path(__file__).parents[2] / "benchmarks" / "routing_requests"
TEST_SETS = sorted(path for path in REQUESTS.iterdir() if path.is_dir())
# Pairs of different forms, found after the weights were fitted and the test sets measured. Without one of them, the
# weights would be those of other lines, and every request of a test set would be composed anew. Without the two
# requests of test sets that resemble trained lines, no figure changes by more than 0.001.
KEPT = {
    ("ide-inline:110", "meetings:186"),  # "gist?"
    ("everyday:91", "plain-words:97"),  # "What is the currency of Peru?", of Japan
    ("open-questions:65", "pupil:76"),  # "Why is the sky blue", in a test set and trained on
    ("backoffice:108", "accountant:53"),  # "less grovelling", in a test set and trained on
    ("applications:122", "languages:131"),  # "tl;dr", in two test sets
    ("publicmix:82", "writing-centre:85"),  # "shorter", in one test set
}


@pytest.mark.slow
@pytest.mark.parametrize("folder", [LINES, *TEST_SETS], ids=lambda folder: folder.name)
def test_every_line_can_be_read_and_no_two_are_alike(folder: Path) -> None:
    lines = list(read_lines(folder))
    assert {line.task for line in lines} == set(Task)
    assert {(one.name, other.name) for one, other in too_alike(lines)} <= KEPT


@pytest.mark.slow
def test_nothing_in_a_test_set_is_trained_on() -> None:
    """Neither its writers nor lines like its own; nor do two test sets share any."""
    held_out = [line for folder in TEST_SETS for line in read_lines(folder)]
    trained = list(read_lines())
    writers = {line.writer for line in held_out}
    assert writers.isdisjoint(line.writer for line in trained)
    pairs = too_alike([*held_out, *trained])
    assert {(one.name, other.name) for one, other in pairs if one.writer in writers} <= KEPT


def test_lines_of_different_forms_are_alike_if_each_has_most_of_the_other(tmp_path: Path) -> None:
    followup = {"form": "followup", "turns": [{"role": "user", "content": "now make it a lot shorter"}]}
    same = {"form": "instruction", "instruction": "make it a lot shorter", "material": "none"}
    longer = {"form": "complete", "text": "Thanks for that. Please make it a lot shorter and then send it to Ada."}
    pairs = too_alike(read_lines(written(tmp_path, followup, same, longer)))
    assert [(one.number, other.number) for one, other in pairs] == [(1, 2)]


def written(folder: Path, *lines: dict[str, object]) -> Path:
    common = {"task": "chat", "also_ok": [], "lang": "en"}
    (folder / "w.jsonl").write_text("".join(json.dumps(common | line) + "\n" for line in lines))
    return folder


def test_a_followup_keeps_its_earlier_turns_apart(tmp_path: Path) -> None:
    turns = [("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c")]
    given = [{"role": role, "content": content} for role, content in turns]
    (line,) = read_lines(written(tmp_path, {"form": "followup", "turns": given}))
    assert (line.system, line.before, line.asked) == ("Be brief.", (("user", "a"), ("assistant", "b")), "c")


@pytest.mark.parametrize(
    "line",
    [
        {"form": "instruction", "instruction": "x", "material": "stone"},
        {"form": "instruction", "instruction": " ", "material": "none"},
        {"form": "complete", "text": "x", "also_ok": ["chat"]},
        {"form": "complete", "text": "x", "task": "poetry"},
        {"form": "followup", "turns": [{"role": "assistant", "content": "x"}]},
        {"form": "poem", "text": "x"},
    ],
)
def test_a_line_of_another_form_is_refused(tmp_path: Path, line: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        list(read_lines(written(tmp_path, line)))


def test_lines_that_share_most_of_their_words_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    english = ("please make this text shorter", "make this text shorter now", "what is the time in Lima")
    texts = (*english, "短くしてください", "もっと短くしてください")
    folder = written(tmp_path, *({"form": "complete", "text": text} for text in texts))
    assert main(folder) == 1
    printed = capsys.readouterr().out
    assert "w:1 and w:2" in printed
    assert "w:4 and w:5" in printed
    assert "w:3" not in printed
