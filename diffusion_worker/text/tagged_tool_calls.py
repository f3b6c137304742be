"""Parser of tagged tool calls, for checkpoints without control tokens for calls: tags around JSON.

    <tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>

Many open models use this form (Hermes, Qwen). The constraint ensures that other text does not look like a call; an
incomplete call remains text. `messages` writes earlier calls in the same form.
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
    """Finds tool calls in text that arrives in pieces; white space after a call is dropped."""

    def __init__(self) -> None:
        self._held = ""  # text that may start a tag, or an unclosed call
        self._has_called = False
        self.is_calling = False

    @property
    def is_holding(self) -> bool:
        """Whether some of the text is neither final text nor part of a complete call."""
        return self.is_calling or bool(self._held)

    def feed(self, text: str) -> Iterator[str | ToolCall]:
        """Add text; yields final text and complete tool calls in order."""
        self._held += text
        while (parsed := self._next()) is not None:
            yield parsed

    def flush(self) -> str:
        """The remaining text at the end, including an incomplete call."""
        held, self._held = self._held, ""
        return f"{OPEN_TAG}{held}" if self.is_calling else self._without_leading_space(held)

    def _next(self) -> str | ToolCall | None:
        return self._call() if self.is_calling else self._text()

    def _text(self) -> str | None:
        """Text up to an opening tag, or the text that cannot be part of one; None if there is none."""
        before, opens, behind = self._held.partition(OPEN_TAG)
        if opens:
            self.is_calling, self._held = True, behind
            return self._without_leading_space(before)
        final = len(before) - overlap(before, OPEN_TAG)
        self._held = before[final:]
        return self._without_leading_space(before[:final]) or None

    def _without_leading_space(self, text: str) -> str:
        return text.lstrip() if self._has_called else text

    def _call(self) -> ToolCall | None:
        """The call, up to the first closing tag that completes it: a string may contain the closing tag."""
        at = self._held.find(CLOSE_TAG)
        while at >= 0:
            if (call := read_tagged_call(self._held[:at])) is not None:
                self.is_calling, self._has_called = False, True
                self._held = self._held[at + len(CLOSE_TAG) :]
                return call
            at = self._held.find(CLOSE_TAG, at + 1)
        return None


def read_tagged_call(text: str) -> ToolCall | None:
    """The tool call between two tags, with its arguments as written; None if malformed."""
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
