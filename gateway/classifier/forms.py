"""Requests that their form assigns to a task: a cursor, search/replace blocks, a closed list of labels.

Each form is a rule of its own. Its confidence is at most the share of the writers' lines with that form that have its
task, which a test measures. Forms below 0.9 are left to the words: passages with a question (0.77; some ask for
quotations), a system prompt that names JSON (0.60 structured, 0.27 extraction), and a diff (0.29 chat, 0.23 summarize,
0.18 extraction, 0.15 edit).
"""

import re
from itertools import islice
from typing import Final

from gateway.enums import Task
from gateway.types import Classification, Query

_SEARCHED: Final = 4096  # characters of a text, at each end

# These are searched in every request, so each begins with a few characters, which `re` looks for in a loop of its own.
# That excludes re.IGNORECASE: system prompts are searched in lower case.
_CARETS: Final = {
    "<": re.compile(r"<\|?/?(?=[cCfFgGhHiI])(?i:cursor|caret|fill|hole|fim|gap|insert)[^<>\n]{0,24}?\|?>"),
    "[": re.compile(r"\[(?i:CURSOR|FILL|HOLE|GAP)[^\]\n]{0,16}\]"),
    "⟨": re.compile(r"⟨(?i:cursor)⟩"),
    **{sign: re.compile(sign) for sign in "█▮‸"},
}
_ASCII_CARETS: Final = tuple((sign, caret) for sign, caret in _CARETS.items() if sign.isascii())
_ALL_CARETS: Final = tuple(_CARETS.items())
_BLOCKS: Final = re.compile("<<<<< ?search")
_LIST: Final = re.compile(r"[:=(]\s*+[\"'`]?[\w-]++[\"'`]?(?:\s?[,|/;]\s?[\"'`]?[\w -]{1,24}+[\"'`]?){2}")
_LABELS: Final = re.compile(
    r"(?:exactly one|one (?:label|word|category|tag|of)|pick one|choose (?:one|from)"
    r"|labels?|categor(?:y|ies)|classes|intents?|tags?|queues?)\b[^.\n]{0,60}\Z"
)
_LABELS_REACH: Final = 60 + len("one category")
_LISTS: Final = 64  # looked at, of a prompt that has more
_WHO_ACTS: Final = re.compile(r"t(?<!\wt)ools?\b|function call|a(?<!\wa)pi\b")

CONFIDENCE: Final = {
    "cursor": (Task.AUTOCOMPLETE, 0.95),
    "blocks": (Task.EDIT, 0.95),
    "labels": (Task.STRUCTURED, 0.95),
}


def form_of(query: Query) -> str | None:
    """The form of a request, a key of CONFIDENCE; None if it has none."""
    user = query.last_user_text
    if len(user) > 2 * _SEARCHED:
        user = _ends(user)
    for sign, caret in _ASCII_CARETS if user.isascii() else _ALL_CARETS:
        if sign in user and caret.search(user):
            return "cursor"
    if not query.system_text:
        return None
    system = _ends(query.system_text).lower()
    if "search/replace block" in system or ("<<<<<" in system and _BLOCKS.search(system)):
        return "blocks"
    if _has_labels(system) and not _WHO_ACTS.search(system):
        return "labels"
    return None


def _has_labels(system: str) -> bool:
    """Whether there is a list of three words or more, and what it is a list of before it."""
    starts = (found.start() for found in islice(_LIST.finditer(system), _LISTS))
    return any(_LABELS.search(system, max(0, start - _LABELS_REACH), start) for start in starts)


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
