"""Reading traces and logs; errors name file, line and column."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.enums import Task
from gateway.errors import TraceError
from gateway.simulation.traffic import read_log, read_trace

HEAD = "trace,arrival_s,input_tokens,output_tokens,task,stream,schema,private\n"
LIMITED = "arrival_s,input_tokens,output_tokens,locations\n"


def test_a_table_is_sorted_by_arrival(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(HEAD + "a,2.5,10,3,,,,\n" + "a,0.5,20,4,edit,true,1,false\n\n")
    first, second = read_trace(file, task=Task.CODE).arrivals
    assert (first.number, first.at_s, first.input_tokens, first.output_tokens) == (0, 0.5, 20, 4)
    assert (first.task, first.stream, first.has_schema, first.private) == (Task.EDIT, True, True, False)
    assert (second.number, second.task, second.stream) == (1, Task.CODE, False)


def test_a_table_limits_requests_to_locations(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(LIMITED + '1,10,3,\n2,10,3,EU\n3,10,3,"eu, on-prem"\n4,10,3,eu on-prem\n')
    both = {"eu", "on-prem"}
    assert [each.locations for each in read_trace(file).arrivals] == [None, {"eu"}, both, both]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ":1:1: the file is empty"),
        (
            "arrival_s,input_tokens\n",
            ":1:1: missing column 'output_tokens'; required: arrival_s, input_tokens, output_tokens",
        ),
        (HEAD + "a,1,2,x,,,,\n", ":2:7: invalid output_tokens 'x'"),
        (HEAD + "a,1,2,3,,,,\na,-1,2,3,,,,\n", ":3:3: invalid arrival_s '-1'"),
        (HEAD + "a,inf,2,3,,,,\n", ":2:3: invalid arrival_s 'inf'"),
        (HEAD + "a,1,2,3,dance,,,\n", ":2:9: invalid task 'dance'"),
        (HEAD + "a,1,2,3,,maybe,,\n", ":2:10: invalid stream 'maybe'"),
        (HEAD + "a,1,2\n", ":2:1: expected 8 values, got 3"),
        (LIMITED + "1,2,3,a/b\n", ":2:7: invalid locations 'a/b'"),
    ],
)
def test_an_error_in_a_table_is_located(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(text)
    with pytest.raises(TraceError) as told:
        read_trace(file)
    assert told.value.message == f"{file}{says}"


def test_a_log_becomes_the_same_requests(line: Any, log_file: Any) -> None:
    late = line(9, [("fast", 0.5, 100)], stream=True, principal="ci", schema="sha256:1", private=True, locations=["eu"])
    named = line(3, [("quality", 0.5, 100)], route="direct", input_tokens=None)
    trace = read_trace(log_file(late, named))
    first, second = trace.arrivals
    assert (first.at_s, first.target, first.input_tokens) == (0.0, "quality", 0)
    assert (second.at_s, second.target, second.principal) == (6.0, None, "ci")
    assert second.stream
    assert second.has_schema
    assert second.private
    assert (first.locations, second.locations) == (None, {"eu"})
    assert (second.task, second.confidence, second.evidence) == (Task.EDIT, 0.97, "prediction")


def test_an_error_in_a_log_is_located(line: Any, log_file: Any) -> None:
    good, bad = line(1, [("fast", 0, 9)]), line(2, [("fast", 0, 9)])
    bad["total_ms"] = "long"
    file = log_file(good, bad)
    column = orjson.dumps(bad).index(b'"total_ms"') + 1
    with pytest.raises(TraceError, match=rf":2:{column}: expected `float`"):
        read_log(file)
    bad["total_ms"] = 9
    bad["attempts"][0]["outcome"] = "fine"
    with pytest.raises(TraceError, match=r":2:\d+: unknown outcome 'fine'"):
        read_log(log_file(good, bad))
    file.write_bytes(orjson.dumps(good) + b"\n" + orjson.dumps(good)[:40] + b"\n")
    with pytest.raises(TraceError, match=r":2:"):
        read_log(file)


def test_a_missing_or_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"none\.jsonl: cannot read the file"):
        read_log(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(TraceError, match=r"empty\.jsonl:1:1: the log contains no decisions"):
        read_log(tmp_path / "empty.jsonl")
    (tmp_path / "latin.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(TraceError, match="invalid UTF-8"):
        read_trace(tmp_path / "latin.csv")
