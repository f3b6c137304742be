"""Requests that their form assigns to a task: a cursor, search/replace blocks, a closed list of labels, passages and a
question.

Each form is a rule of its own. Its confidence is the share of the writers' lines with that form that have its task,
measured by `python -m training.classifier --forms`; forms below 0.9 are left to the words.
"""

import re
from typing import Final

from gateway.enums import Task
from gateway.types import Classification, Query

_SEARCHED: Final = 4096  # characters of a text, at each end

_CURSOR: Final = re.compile(
    r"<\|?/?(?:cursor|caret|fill|hole|fim|gap|insert)[^<>\n]{0,24}?\|?>|\[(?:CURSOR|FILL|HOLE|GAP)[^\]\n]{0,16}\]|█|⟨cursor⟩|▮|‸",
    re.IGNORECASE,
)
_BLOCKS: Final = re.compile(r"<{5,} ?SEARCH|search/replace block", re.IGNORECASE)
_HUNK: Final = re.compile(r"^@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@", re.MULTILINE)
_QUESTION: Final = re.compile(
    r"(?:^|\n)\W{0,4}(?:user'?s? )?(?:question|query|q|frage|pregunta|pergunta|domanda|pytanie|vraag|质问|問題|问题|質問|질문)\W{0,3}[:：]", re.IGNORECASE
)
_PASSAGES: Final = re.compile(
    r"(?:^|\n)\W{0,4}(?:context|passages?|documents?|sources?|excerpts?|snippets?|articles?|retrieved|search results|kontext|quellen|contexto"
    r"|contexte|contesto|kontekst|context|上下文|资料|資料|文脈)\b[^\n]{0,40}[:：]|(?:^|\n)\[\d\] |<(?:context|doc|document|passage|source)\b",
    re.IGNORECASE,
)
_LABELS: Final = re.compile(
    r"(?:exactly one|one (?:label|word|category|tag|of)|pick one|choose (?:one|from)|labels?|categor(?:y|ies)|classes|intents?|tags?|queues?)\b"
    r"[^.\n]{0,60}?[:=(]\s*[\"'`]?[\w-]+[\"'`]?(?:\s?[,|/;]\s?[\"'`]?[\w -]{1,24}[\"'`]?){2,}",
    re.IGNORECASE,
)
_JSON: Final = re.compile(r"\bjson\b", re.IGNORECASE)
_WHO_ACTS: Final = re.compile(r"\btools?\b|function call|\bapi\b", re.IGNORECASE)

CONFIDENCE: Final = {
    "cursor": (Task.AUTOCOMPLETE, 0.95),
    "blocks": (Task.EDIT, 0.95),
    "labels": (Task.STRUCTURED, 0.93),
    "passages": (Task.CHAT, 0.93),
}


def form_of(query: Query) -> str | None:
    """The form of a request, a key of CONFIDENCE; None if it has none."""
    user, system = _ends(query.last_user_text), _ends(query.system_text)
    if _CURSOR.search(user) if "<" in user or "[" in user or not user.isascii() else False:
        return "cursor"
    if system and _BLOCKS.search(system):
        return "blocks"
    if system and not _WHO_ACTS.search(system) and _LABELS.search(system):
        return "labels"
    if _PASSAGES.search(user) and _QUESTION.search(user):
        return "passages"
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
