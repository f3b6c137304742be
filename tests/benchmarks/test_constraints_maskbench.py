"""MaskBench's measures on handwritten schemas and the shipped vocabulary."""

import json
from typing import Any

import pytest
from rich.console import Console

from benchmarks import constraints_maskbench
from benchmarks.constraints_maskbench import Engine, Measured, Ours, Tokens, measure, measure_all, table
from benchmarks.vocabularies import Words, shipped

OPEN: dict[str, Any] = {
    "schema": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}},
    "tests": [{"valid": True, "data": {"b": "é", "a": 2}}, {"valid": False, "data": {"a": "x"}}],
}
CHECKED = {"schema": {"uniqueItems": True}, "tests": [{"valid": False, "data": [1, 1]}]}
DEEP = {"schema": {}, "tests": [{"valid": True, "data": [[[[[[[1]]]]]]]}]}
REFUSED = {"schema": {"$ref": "https://example.org"}, "tests": []}


@pytest.fixture(name="words", scope="module")
def shipped_words() -> Words:
    return shipped()


def test_verdicts_are_told_apart(words: Words) -> None:
    engine, tokens = Ours(words), Tokens(words)
    counts = [measure(engine, tokens, each).counts for each in (OPEN, CHECKED, DEEP, REFUSED)]
    assert [sorted(set(each) - {"schemas", "tokens"}) for each in counts] == [
        ["passing"],
        ["left to validation"],
        ["validation error"],
        ["compile error"],
    ]


def test_every_token_has_a_mask_and_every_grammar_a_first_one(words: Words) -> None:
    found = measure(Ours(words), Tokens(words), OPEN)
    assert len(found.mask_us) == found.counts["tokens"] > len(json.dumps(OPEN["tests"][0]["data"]))
    assert len(found.first_us) == 1


def test_tokens_spell_the_text_and_end_it(words: Words) -> None:
    ids = Tokens(words).of('{"é": 1}'.encode())
    assert words.text(ids[:-1]).decode() == '{"é": 1}'
    assert ids[-1] == words.end_id


class _Crash:
    def __init__(self, words: Words) -> None:
        self._engine: Engine = Ours(words)

    def __call__(self, schema: Any) -> Any:
        if schema == {}:
            raise SystemExit(3)
        return self._engine(schema)


def test_engines_that_crash_or_are_missing_do_not_end_the_run(words: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_words: Words) -> Engine:
        raise ImportError

    monkeypatch.setattr(constraints_maskbench, "ENGINES", {"crashing": _Crash, "missing": missing})
    found = measure_all(words, [DEEP, OPEN])
    assert list(found) == ["crashing"]
    assert (found["crashing"].counts["crash"], found["crashing"].counts["passing"]) == (1, 1)


def test_the_table_has_a_column_per_engine() -> None:
    console = Console(width=120, record=True)
    console.print(table({"one": Measured(mask_us=[1.0, 3.0], counts={"passing": 4}), "two": Measured()}))
    text = console.export_text()
    assert all(word in text for word in ("TBM avg", "TTFM p99.9", "invalidation error", "one", "two"))
