"""The policy commands end to end: output, files and exit codes."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from tests.gateway.simulation.conftest import POLICY

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "policies.md").read_text()
[EXAMPLE] = [found for found in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL) if "policy simulate" in found]
KNOWN = ("--latency", "fast=100+1", "--latency", "quality=200+5")


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: Any) -> None:
    """A temporary folder with a policy, a table of edits, and the repository's policies."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").symlink_to(ROOT / "policies")
    (tmp_path / "p.yaml").write_text(POLICY)
    rows = "".join(f"{second / 5},100,20\n" for second in range(200))
    (tmp_path / "t.csv").write_text("arrival_s,input_tokens,output_tokens\n" + rows)


def run(capsys: Any, *line: str) -> tuple[int, str, str]:
    try:
        code = main(["policy", *line])
    except SystemExit as completed:
        code = int(str(completed.code))
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.mark.slow
def test_the_commands_of_the_guide_work_verbatim(capsys: Any) -> None:
    lines = EXAMPLE.strip().splitlines()
    assert {shlex.split(line)[2] for line in lines} == {"simulate", "suggest", "check", "diff"}
    for line in lines:
        words = shlex.split(line)
        into = words.index(">") if ">" in words else len(words)
        code, out, errors = run(capsys, *words[2:into])
        assert code == 0, line
        assert all("has no `min_confidence`" in warning for warning in errors.splitlines())  # in that of the trace
        if into < len(words):
            Path(words[into + 1]).write_text(out)
    assert json.loads(Path("diff.json").read_text())["new"]["requests"] == 160


def test_a_simulation_prints_tables_and_writes_the_same_figures(capsys: Any) -> None:
    given = ("simulate", "p.yaml", "t.csv", *KNOWN, "--task", "edit", "--slow", "fast=8@8-30", "--json", "out.json")
    code, out, errors = run(capsys, *given)
    assert (code, errors) == (0, "")
    figures = json.loads(Path("out.json").read_text())
    assert figures["requests"] == sum(lane["requests"] for lane in figures["lanes"]) == 200
    assert figures["errors"] == 0
    assert "ejected" in {change["state"] for change in figures["changes"]}
    assert {fallback["reason"] for fallback in figures["fallbacks"]} == {"p95_breach"}
    for lane in figures["lanes"]:
        assert re.search(rf"{lane['route']} +│ {lane['target']} +│ {lane['requests']} +│", out)
    assert f"{figures['changes'][0]['at_s']:.1f}" in out


def test_a_difference_lists_moved_requests_and_equal_policies_have_none(capsys: Any) -> None:
    Path("new.yaml").write_text(POLICY.replace("task: edit", "task: chat"))
    more = ("--trace", "t.csv", *KNOWN, "--task", "edit", "--price", "quality=10", "--json", "out.json")
    code, out, _ = run(capsys, "diff", "p.yaml", "new.yaml", *more)
    assert code == 0
    assert "requests that move" in out
    found = json.loads(Path("out.json").read_text())
    assert found["moved"] == [
        {
            "task": "edit", "old_route": "edits", "old_target": "fast",
            "new_route": "default", "new_target": "quality", "requests": 200,
        }
    ]  # fmt: skip
    assert found["new"]["dollars"] == pytest.approx(200 * 120 * 10 / 1e6)
    code, out, _ = run(capsys, "diff", "p.yaml", "p.yaml", *more)
    assert code == 0
    same = json.loads(Path("out.json").read_text())
    assert same["moved"] == []
    assert same["old"] == same["new"]
    assert "requests that move" not in out


def test_a_log_with_too_few_responses_suggests_nothing(capsys: Any, line: Any, log_file: Any) -> None:
    file = log_file(*(line(n, [("fast", 0, 100)]) for n in range(50)))
    code, out, _ = run(capsys, "suggest", str(file), "--policy", "p.yaml")
    assert code == 1
    assert out == f"{file}: no route of p.yaml has enough responses to estimate a p95 (at least 100 responses)\n"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("simulate", "p.yaml", "none.csv", *KNOWN), "none.csv: cannot read the file: No such file or directory"),
        (("simulate", "none.yaml", "t.csv", *KNOWN), "none.yaml: cannot read the file"),
        (("simulate", "p.yaml", "t.csv", *KNOWN[:2]), "no latency model for target 'quality'"),
        (("simulate", "p.yaml", "t.csv", *KNOWN, "--json", "no/such/folder"), "no/such/folder: No such file"),
        (("simulate", "p.yaml", "t.csv", "--fit", "t.csv"), "t.csv:1:1: "),
        (
            ("simulate", "p.yaml", "t.csv", "--latency", "fast"),
            "expected TARGET=MS[+MS_PER_TOKEN]",
        ),
        (
            ("simulate", "p.yaml", "t.csv", "--latency", "fast=0"),
            "'0' in 'fast=0'; expected a number above 0",
        ),
        (("simulate", "p.yaml", "t.csv", "--slow", "fast=5@60"), "invalid number '' in 'fast=5@60'"),
        (("simulate", "p.yaml", "t.csv", "--down", "fast@x-3"), "invalid number 'x' in 'fast@x-3'; expected a non-neg"),
        (("simulate", "p.yaml", "t.csv", "--slow", "slow=5@1-2", *KNOWN), "unknown target 'slow'"),
        (("simulate", "p.yaml", "t.csv", "--price", "slow=5", *KNOWN), "no latency model for target 'slow'"),
        (("simulate", "p.yaml", "t.csv", "--seed", "luck"), "invalid int value: 'luck'"),
        (("diff", "p.yaml", "p.yaml"), "--trace"),
        (("suggest", "t.csv", "--policy", "p.yaml"), "t.csv:1:1: "),
    ],
)
def test_wrong_use_is_one_line_and_code_2(capsys: Any, given: tuple[str, ...], says: str) -> None:
    code, out, errors = run(capsys, *given)
    assert (code, out) == (2, "")
    assert errors.count("\n") == 1
    assert says in errors


def test_an_explanation_says_whether_each_target_is_eligible(capsys: Any) -> None:
    Path("p.yaml").write_text(POLICY.replace("engine: vllm", "capabilities: [chat]"))
    messages = [{"role": "user", "content": "hi"}]
    request = {"model": "auto", "stop": "x", "metadata": {"task": "edit"}, "messages": messages}
    Path("r.json").write_text(json.dumps(request))
    code, out, _ = run(capsys, "explain", "r.json", "--policy", "p.yaml")
    assert code == 0
    assert "task     edit (1.00, by metadata)" in out
    assert "try 1    fast (in_cluster): eligible (capabilities reported by the worker)" in out
    assert "try 2    quality (external): skipped: unsupported, lacks stop" in out
    Path("p.yaml").write_text(POLICY.replace("engine: vllm", "capabilities: [chat], ignore: [stop]"))
    _, out, _ = run(capsys, "explain", "r.json", "--policy", "p.yaml")
    assert "try 2    quality (external): eligible, ignores stop" in out
