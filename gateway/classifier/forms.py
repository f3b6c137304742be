"""Requests that their form assigns to a task: a cursor, search/replace blocks, a closed list of labels.

Each form is a rule of its own. Its confidence is at most the share of the writers' lines with that form that have its
task, which a test measures. Forms below 0.9 are left to the words: passages with a question (0.77; some ask for
quotations) and a system prompt that names JSON (0.60 structured, 0.27 extraction).
"""

import re
from typing import Final

from gateway.enums import Task
from gateway.types import Classification, Query

_SEARCHED: Final = 4096  # characters of a text, at each end

_CARET: Final = re.compile(
    r"<\|?/?(?:cursor|caret|fill|hole|fim|gap|insert)[^<>\n]{0,24}?\|?>"
    r"|\[(?:CURSOR|FILL|HOLE|GAP)[^\]\n]{0,16}\]|█|⟨cursor⟩|▮|‸",
    re.IGNORECASE,
)
_BLOCKS: Final = re.compile(r"<{5,} ?SEARCH|search/replace block", re.IGNORECASE)
_LABELS: Final = re.compile(
    r"(?:exactly one|one (?:label|word|category|tag|of)|pick one|choose (?:one|from)"
    r"|labels?|categor(?:y|ies)|classes|intents?|tags?|queues?)\b"
    r"[^.\n]{0,60}?[:=(]\s*[\"'`]?[\w-]+[\"'`]?(?:\s?[,|/;]\s?[\"'`]?[\w -]{1,24}[\"'`]?){2,}",
    re.IGNORECASE,
)
_WHO_ACTS: Final = re.compile(r"\btools?\b|function call|\bapi\b", re.IGNORECASE)

CONFIDENCE: Final = {
    "cursor": (Task.AUTOCOMPLETE, 0.95),
    "blocks": (Task.EDIT, 0.95),
    "labels": (Task.STRUCTURED, 0.95),
}


def form_of(query: Query) -> str | None:
    """The form of a request, a key of CONFIDENCE; None if it has none."""
    user, system = _ends(query.last_user_text), _ends(query.system_text)
    if _CARET.search(user):
        return "cursor"
    if system and _BLOCKS.search(system):
        return "blocks"
    if system and not _WHO_ACTS.search(system) and _LABELS.search(system):
        return "labels"
    return None


def from_form(query: Query) -> Classification | None:
    """See `classify.EvidenceStage`."""
    form = form_of(query)
    if form is None or form not in CONFIDENCE:
        return None
    task, confidence = CONFIDENCE[form]
    return Classification(task=task, confidence=confidence, evidence=f"form: {form}")


FORM_STAGES: Final = (from_form,)


def _ends(text: str) -> str:
    return text if len(text) <= 2 * _SEARCHED else text[:_SEARCHED] + text[-_SEARCHED:]
