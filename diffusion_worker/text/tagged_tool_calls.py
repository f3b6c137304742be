"""Calls of checkpoints that were trained on none, found in their text: tags around JSON.

    <tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>

Many open models know this form (Hermes, Qwen). That nothing else looks like a call is the constraint's promise; what is
no whole call stays text. Knows no ids; how earlier calls are shown is the business of `conversation`.
"""

import json
import re
from collections.abc import Iterator
from typing import Final

from diffusion_worker.constraints.tool_calls import CLOSE_TAG, OPEN_TAG
from diffusion_worker.text.detokenize import overlap
from diffusion_worker.text.tool_calls import ToolCall

_HEAD: Final = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]+)"\s*,\s*"arguments"\s*:\s*(?=\{)')
_TAIL: Final = re.compile(r"\s*\}\s*")
_JSON: Final = json.JSONDecoder()


class TaggedCallReader:
    """Finds calls in text that comes in pieces of any size; white space behind a call is no text."""

    def __init__(self) -> None:
        self._held = ""  # text that may open a call, or a call that is not closed
        self._has_called = False
        self.is_calling = False

    def feed(self, text: str) -> Iterator[str | ToolCall]:
        """What is sure by now, in order."""
        self._held += text
        while (found := self._next()) is not None:
            yield found

    def flush(self) -> str:
        """What was held back, now that nothing follows: no whole call."""
        held, self._held = self._held, ""
        return f"{OPEN_TAG}{held}" if self.is_calling else self._said(held)

    def _next(self) -> str | ToolCall | None:
        return self._call() if self.is_calling else self._text()

    def _text(self) -> str | None:
        """Up to the opening of a call, or as much as cannot be part of one; None: nothing."""
        before, opens, behind = self._held.partition(OPEN_TAG)
        if opens:
            self.is_calling, self._held = True, behind
            return self._said(before)
        sure = len(before) - overlap(before, OPEN_TAG)
        self._held = before[sure:]
        return self._said(before[:sure]) or None

    def _said(self, text: str) -> str:
        return text.lstrip() if self._has_called else text

    def _call(self) -> ToolCall | None:
        """A string may hold the closing tag, so the first one behind which the call is whole closes it."""
        at = self._held.find(CLOSE_TAG)
        while at >= 0:
            if (call := read_tagged_call(self._held[:at])) is not None:
                self.is_calling, self._has_called = False, True
                self._held = self._held[at + len(CLOSE_TAG) :]
                return call
            at = self._held.find(CLOSE_TAG, at + 1)
        return None


def read_tagged_call(text: str) -> ToolCall | None:
    """The call between two tags, its arguments as they are written; None if it is none."""
    head = _HEAD.match(text)
    if head is None:
        return None
    try:
        _, end = _JSON.raw_decode(text, head.end())
    except (ValueError, RecursionError):
        return None
    if _TAIL.fullmatch(text, end) is None:
        return None
    return ToolCall(name=head[1], arguments=text[head.end() : end])
