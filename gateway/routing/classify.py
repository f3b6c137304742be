"""What a request wants done, from the cheapest sufficient evidence: witnesses in order, the first who knows tells.

Knows nothing of policies. The witnesses here are sure by the kind of their evidence, see `CONFIDENCE`; behind them the
gateway hears one that has learned (`learned.py`). What a policy does with a confidence is its own business (a route
usually wants 0.6 or more).
"""

import re
from collections.abc import Callable
from typing import Final

from gateway.enums import Form, Task
from gateway.types import Classification, Query

ResponseRecorder = Callable[[Query], Classification | None]
Classify = Callable[[Query], Classification]

CONFIDENCE: Final = {
    "header": 1.0,  # the application said so
    "metadata": 1.0,
    "prediction": 0.98,  # OpenAI's field for edits: most of the answer is known
    "suffix": 0.98,  # text before and after a gap
    "tools": 0.95,  # functions to call: an agent's turn
    "response_format": 0.95,  # a schema, or JSON of any shape
    "structured_outputs": 0.95,  # a regex, a choice, a template
    "fim_markers": 0.95,  # fill-in-the-middle markers of code models, in plain text
    "none": 0.3,  # nothing to go by: a chat
}

# Of code models' own templates: Qwen, StarCoder, CodeGemma; Code Llama; DeepSeek.
_FIM_MARKERS: Final = re.compile(r"<\|?fim[_▁](?:prefix|suffix|middle|begin|hole|end)\|?>|<｜fim▁|<(?:PRE|SUF|MID)>")
_SEEN_CHARS: Final = 16_384  # of a long text, markers are looked for in the head and the tail only


def classify(query: Query, stages: tuple[ResponseRecorder, ...] | None = None) -> Classification:
    """The task of a request. Without any evidence it is a chat, with a confidence that no sensible route accepts."""
    for recorder in WITNESSES if stages is None else stages:
        found = recorder(query)
        if found is not None:
            return found
    return _testify(Task.CHAT, "none")


def stated(query: Query) -> Classification | None:
    """The application named the task, in a header or in `metadata`."""
    if query.task_hint is None:
        return None
    return _testify(query.task_hint, query.task_hint_from or "header")


def shaped(query: Query) -> Classification | None:
    """The request's form gives its task away, whatever its words say."""
    if query.has_prediction:
        return _testify(Task.EDIT, "prediction")
    if query.has_suffix:
        return _testify(Task.AUTOCOMPLETE, "suffix")
    if query.has_tools:
        return _testify(Task.AGENT, "tools")
    if query.expectation is not None:
        as_json = query.expectation.form in {Form.JSON_SCHEMA, Form.JSON_OBJECT}
        return _testify(Task.STRUCTURED, "response_format" if as_json else "structured_outputs")
    return None


def marked(query: Query) -> Classification | None:
    """Marks inside the text: a gap to fill."""
    text = query.last_user_text
    if len(text) > 2 * _SEEN_CHARS:
        text = text[:_SEEN_CHARS] + text[-_SEEN_CHARS:]
    if "<" in text and _FIM_MARKERS.search(text):
        return _testify(Task.AUTOCOMPLETE, "fim_markers")
    return None


WITNESSES: Final[tuple[ResponseRecorder, ...]] = (stated, shaped, marked)


def _testify(task: Task, evidence: str) -> Classification:
    return Classification(task=task, confidence=CONFIDENCE[evidence], evidence=evidence)
