"""Task classification: evidence stages in order of cost; the first one that recognises the task decides.

The stages here have a fixed confidence for each kind of evidence (`CONFIDENCE`). After them, the gateway uses a trained
linear model (`gateway.classifier`). Policies set the required confidence; a route usually requires 0.6 or more.
"""

from collections.abc import Callable
from typing import Final

from gateway.enums import FormatKind, Task
from gateway.routing.fill_in_the_middle import MARKERS
from gateway.types import Classification, Query

EvidenceStage = Callable[[Query], Classification | None]
Classify = Callable[[Query], Classification]

CONFIDENCE: Final = {
    "header": 1.0,  # the client named the task
    "metadata": 1.0,
    "api": 1.0,  # an API for one task, such as completions
    "prediction": 0.98,  # OpenAI's field for edits: most of the output is known
    "suffix": 0.98,  # text before and after a gap
    "tools": 0.95,  # functions to call: an agent
    "response_format": 0.95,  # a JSON schema, or any JSON object
    "structured_outputs": 0.95,  # a regex, a choice or a template
    "edit_tags": 0.95,  # the tags of models that apply edits, around the code and the update
    "fim_markers": 0.95,  # fill-in-the-middle markers of code models, in plain text
    "none": 0.3,  # no evidence: a chat
}

EARLIER_CHARS: Final = 512  # of earlier messages, at each end
SEARCHED_CHARS: Final = 16_384  # in long texts, markers are searched in the head and the tail only


def classify(query: Query, stages: tuple[EvidenceStage, ...] | None = None) -> Classification:
    """Classify a request. Without evidence it is a chat, with a confidence below any useful threshold."""
    for stage in STAGES if stages is None else stages:
        found = stage(query)
        if found is not None:
            return found
    return _classification(Task.CHAT, "none")


def from_fields(query: Query) -> Classification | None:
    """The task that the client named, in a header, in `metadata` or by the API that it called; otherwise the task that
    the request's fields imply, regardless of its text."""
    if query.task_hint is not None:
        return _classification(query.task_hint, query.task_hint_from or "header")
    if query.has_prediction:
        return _classification(Task.EDIT, "prediction")
    if query.beyond_chat.source is not None:
        return _classification(Task.EDIT, "edit_tags")
    if query.has_suffix:
        return _classification(Task.AUTOCOMPLETE, "suffix")
    if query.has_tools:
        return _classification(Task.AGENT, "tools")
    if query.output_format is not None:
        as_json = query.output_format.form in {FormatKind.JSON_SCHEMA, FormatKind.JSON_OBJECT}
        return _classification(Task.STRUCTURED, "response_format" if as_json else "structured_outputs")
    return None


def from_markers(query: Query) -> Classification | None:
    """Autocomplete, if the text contains fill-in-the-middle markers."""
    text = query.last_user_text
    if len(text) > 2 * SEARCHED_CHARS:
        text = text[:SEARCHED_CHARS] + text[-SEARCHED_CHARS:]
    if "<" in text and MARKERS.search(text):
        return _classification(Task.AUTOCOMPLETE, "fim_markers")
    return None


STAGES: Final[tuple[EvidenceStage, ...]] = (from_fields, from_markers)


def _classification(task: Task, evidence: str) -> Classification:
    return Classification(task=task, confidence=CONFIDENCE[evidence], evidence=evidence)
