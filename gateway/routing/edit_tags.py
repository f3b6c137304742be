"""The tags with which editors send code to be edited, inside a message.

Morph and Relace take `<instruction>...</instruction><code>...</code><update>...</update>` as a chat message.
Inception's APIs take `<|code_to_edit|>` (the next edit) and `<|original_code|>` with `<|update_snippet|>` (apply an
edit).
"""

from typing import Final

_OPENINGS: Final = ("<instruction>", "<instructions>", "<code>")
CODE_TO_EDIT: Final = "code_to_edit"
ORIGINAL_CODE: Final = "original_code"
UPDATE_SNIPPET: Final = "update_snippet"
_CARET: Final = "<|cursor|>"


def tagged_code(message: str) -> str | None:
    """The code of a message that asks to apply an update with Morph's and Relace's tags; None for any other message."""
    if not message.startswith(_OPENINGS) and not (message[:1].isspace() and message.lstrip().startswith(_OPENINGS)):
        return None
    head, found, _ = message.rpartition("<update>")
    code, closed, _ = head.rpartition("</code>")
    _, opened, code = code.partition("<code>")
    return code if found and closed and opened and code else None


def section(message: str, tag: str) -> str | None:
    """The text between Inception's tags `<|tag|>` and `<|/tag|>`, without the line breaks next to them; None without
    both tags. The text in between may contain the closing tag."""
    _, opened, rest = message.partition(f"<|{tag}|>")
    text, closed, _ = rest.rpartition(f"<|/{tag}|>")
    return text.removeprefix("\n").removesuffix("\n") if opened and closed else None


def without_caret(code: str) -> str:
    """The code without the mark of the cursor."""
    return code.replace(_CARET, "", 1)
