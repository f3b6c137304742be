"""Removes and adds the Markdown fence around a text that arrives in pieces.

Chat models often put code into a fence, although they are told not to; editors would insert it.
"""

import re
from typing import Final

_FENCE: Final = "```"
# A line of its own; what follows it is an explanation.
_CLOSING: Final = re.compile(r"\n```[ \t]*(?=\n)")
# The end of the text so far, where such a line may be coming.
_MAYBE_CLOSING: Final = re.compile(r"\n(?:`{0,2}|```[ \t]*)\Z")
_CLOSED_AT_END: Final = re.compile(r"\n```[ \t]*\n*\Z")


class Unfence:
    """Feed it the pieces of a text, then close it: the pieces without the fence around the whole text, if there is one.

    A text that does not begin with a fence passes unchanged.
    """

    def __init__(self) -> None:
        self._held = ""
        self._is_open: bool | None = None  # None: not known yet
        self._is_at_start = False  # of the content: it is held with a line break that is not part of it
        self._is_done = False  # the fence was closed

    def feed(self, text: str) -> str:
        """What can be passed on after this piece."""
        if self._is_done:
            return ""
        if self._is_open is False:
            return text
        self._held += text
        return self._inside() if self._is_open or self._has_opened() else self._before()

    def close(self) -> str:
        """The rest of the text."""
        rest, self._held = self._held, ""
        if not self._is_open:
            return rest
        rest = _CLOSED_AT_END.sub("", rest)
        return rest.removeprefix("\n") if self._is_at_start else rest

    def _has_opened(self) -> bool:
        """Whether the first line is a fence, which is removed."""
        head = self._held.lstrip()
        line, newline, rest = head.partition("\n")
        if not (line.startswith(_FENCE) and newline):
            return False
        self._is_open = self._is_at_start = True
        self._held = "\n" + rest
        return True

    def _before(self) -> str:
        """While the first line may become a fence, nothing is passed on."""
        head = self._held.lstrip()
        if head.startswith(_FENCE) or _FENCE.startswith(head):
            return ""
        self._is_open = False
        text, self._held = self._held, ""
        return text

    def _inside(self) -> str:
        if (closing := _CLOSING.search(self._held)) is not None:
            self._is_done = True
            end = closing.start()
        else:
            maybe = _MAYBE_CLOSING.search(self._held)
            end = maybe.start() if maybe is not None else len(self._held)
        text, self._held = self._held[:end], "" if self._is_done else self._held[end:]
        if self._is_at_start and text:
            self._is_at_start = False
            text = text[1:]
        return text


class Fence:
    """Feed it the pieces of a text, then close it: the text in a fence of its own, with an empty line at its end."""

    def __init__(self) -> None:
        self._newlines = 0
        self._has_begun = False

    def feed(self, text: str) -> str:
        """What can be passed on after this piece; line breaks at the end of the text are left out."""
        body = text.rstrip("\n")
        if not body:
            self._newlines += len(text)
            return ""
        head = "" if self._has_begun else f"{_FENCE}\n"
        passed = head + "\n" * self._newlines + body
        self._has_begun = True
        self._newlines = len(text) - len(body)
        return passed

    def close(self) -> str:
        """The end of the fence."""
        head = "" if self._has_begun else f"{_FENCE}\n"
        return f"{head}\n\n{_FENCE}"
