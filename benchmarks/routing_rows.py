"""Labelled requests for `benchmarks.routing`, read as the gateway reads them, and the baseline of ten keywords."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.enums import Task
from gateway.errors import BadRequest
from gateway.types import Classification, Query
from gateway.web.parse_request import parse_chat

_PASSED_ON: Final = ("messages", "tools", "response_format", "suffix", "prediction")
_KEYWORDS: Final = (
    (Task.TRANSLATE, re.compile(r"\btranslate\b", re.IGNORECASE)),
    (Task.SUMMARIZE, re.compile(r"\b(summar(y|ize|ise)|tl;?dr)\b", re.IGNORECASE)),
    (Task.EXTRACTION, re.compile(r"\b(extract|entities)\b", re.IGNORECASE)),
    (Task.STRUCTURED, re.compile(r"\b(json|yaml|csv|xml)\b", re.IGNORECASE)),
    (Task.EDIT, re.compile(r"\b(rewrite|rephrase|fix|correct|edit|refactor)\b", re.IGNORECASE)),
    (Task.AUTOCOMPLETE, re.compile(r"\b(autocomplete|complete the code)\b|<.?fim", re.IGNORECASE)),
    (Task.CODE, re.compile(r"\b(function|code|python|javascript|c\+\+|program|sql|script)\b", re.IGNORECASE)),
    (Task.REASONING, re.compile(r"\b(how many|how much|solve|calculate|probability|prove)\b", re.IGNORECASE)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One request with its label; a task of `also_ok` counts as right, too."""

    name: str
    task: Task
    also_ok: frozenset[Task]
    is_templated: bool
    query: Query


def read_rows(path: Path) -> list[Row]:
    """Raises ValueError for a line that is no labelled request; names the line."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(_row(json.loads(line), number))
        except (KeyError, ValueError, TypeError, BadRequest) as fault:
            raise ValueError(f"{path}:{number}: not a labelled request: {fault!r}") from fault
    return rows


def _row(given: Mapping[str, Any], number: int) -> Row:
    return Row(
        name=str(given.get("id", number)),
        task=Task(given["task"]),
        also_ok=frozenset(map(Task, given.get("also_ok") or ())),
        is_templated=bool(given.get("templated")),
        query=parse_chat(orjson.dumps(_body(given)), {}, now_s=0.0, principal=None),
    )


def _body(given: Mapping[str, Any]) -> dict[str, Any]:
    """A chat request. A row for the completions endpoint is the same with its prompt as the only turn."""
    body = {name: given[name] for name in _PASSED_ON if given.get(name) is not None}
    completions = given.get("completions") or {}
    if completions:
        body["messages"] = [{"role": "user", "content": completions["prompt"]}]
        body["suffix"] = completions.get("suffix", "")
    return {"model": "auto", **body}


def by_keywords(query: Query) -> Classification:
    """The rule of ten lines: two by the request's form, eight by a word, and chat otherwise."""
    if query.has_tools:
        return Classification(task=Task.AGENT, confidence=1.0, evidence="tools")
    if query.output_format is not None:
        return Classification(task=Task.STRUCTURED, confidence=1.0, evidence="response_format")
    text = f"{query.system_text}\n{query.last_user_text}"
    found = next((task for task, pattern in _KEYWORDS if pattern.search(text)), Task.CHAT)
    return Classification(task=found, confidence=1.0, evidence="keyword")
