"""The requests that the routing benchmark measures by: the committed test sets, or a file of labelled chat requests.

A test set (a folder of `routing_requests/`) holds lines of the form of `training.classifier.lines`: an instruction is
put beside a text of a package that no training text comes from, by a seeded generator, so every run measures the same
requests.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.enums import Task
from gateway.errors import BadRequest
from gateway.types import Query
from gateway.web.parse_request import parse_chat
from training.classifier.compose import Request, compose, pasted_texts
from training.classifier.lines import Line, read_lines
from training.classifier.materials import HELD_OUT, Materials

_REQUESTS: Final = Path(__file__).with_name("routing_requests")
_AGES: Final = ("first", "second", "third", "fourth")
TEST_SETS: Final = tuple(_REQUESTS / name for name in _AGES if (_REQUESTS / name).is_dir())  # the newest is the last
_SEED: Final = 20261130
_REQUEST_FIELDS: Final = ("messages", "tools", "response_format", "suffix", "prediction")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One labelled request; the tasks in `also_ok` count as correct, too. `writer` is empty if it is not known."""

    name: str
    task: Task
    also_ok: frozenset[Task]
    query: Query
    is_templated: bool = False
    writer: str = ""
    lang: str = "en"
    form: str = ""
    has_material: bool = False


def read_test_set(folder: Path) -> list[Example]:
    """The requests of a folder of lines. Raises ValueError or KeyError for a line that is not of the form."""
    lines = list(read_lines(folder))
    rng, beside = random.Random(_SEED), Materials(HELD_OUT, pasted_texts(lines))
    return [_of_line(line, compose(rng, line, beside)) for line in lines]


def read_examples(path: Path) -> list[Example]:
    """Read labelled requests as the gateway parses them. Raises ValueError, which names the line."""
    examples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            examples.append(_example(json.loads(line), number))
        except (KeyError, ValueError, TypeError, BadRequest) as error:
            raise ValueError(f"{path}:{number}: not a labelled request: {error!r}") from error
    return examples


def _of_line(line: Line, request: Request) -> Example:
    turns = (("system", request.system), ("user", request.earlier), ("assistant", request.answer))
    messages = [{"role": role, "content": text} for role, text in turns if text]
    return Example(
        name=line.name,
        task=line.task,
        also_ok=frozenset(line.also_ok),
        query=_query({"messages": [*messages, {"role": "user", "content": request.user}]}),
        writer=line.writer,
        lang=line.lang,
        form=line.form,
        has_material=line.material != "none",
    )


def _example(document: Mapping[str, Any], number: int) -> Example:
    return Example(
        name=str(document.get("id", number)),
        task=Task(document["task"]),
        also_ok=frozenset(map(Task, document.get("also_ok") or ())),
        is_templated=bool(document.get("templated")),
        query=_query(_body(document)),
    )


def _body(document: Mapping[str, Any]) -> dict[str, Any]:
    """A chat request. A request for the completions endpoint becomes one with its prompt as the only message."""
    body = {name: document[name] for name in _REQUEST_FIELDS if document.get(name) is not None}
    completions = document.get("completions") or {}
    if completions:
        body["messages"] = [{"role": "user", "content": completions["prompt"]}]
        body["suffix"] = completions.get("suffix", "")
    return body


def _query(body: dict[str, Any]) -> Query:
    return parse_chat(orjson.dumps({"model": "auto", **body}), {}, now_s=0.0, key=None)
