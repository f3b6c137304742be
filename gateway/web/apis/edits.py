"""Edits: `/v1/edit/completions` predicts the next edit, `/v1/apply/completions` merges an update into a file.

Both take a chat message in which Inception's tags mark the code, and answer with a chat completion. Other models do not
know the tags, so a request without instructions of its own gets them as a system message. Workers start from the code,
which keeps the lines that do not change.
"""

from dataclasses import replace
from typing import Any, Final

from gateway.beyond_chat import BeyondChat
from gateway.enums import Task
from gateway.errors import InvalidField
from gateway.routing.edit_tags import CODE_TO_EDIT, ORIGINAL_CODE, UPDATE_SNIPPET, section, without_caret
from gateway.types import Query
from gateway.upstreams.answers import lenient
from gateway.web.apis.fences import Fence, Unfence
from gateway.web.parse_request import CHAT, decode, last_user_text, parse_chat
from twolane.process import exact_json
from twolane.process.api_keys import Key
from twolane.process.trace_context import Trace

_EDIT: Final = (
    "The user's message shows a file that is being edited: recently viewed code, the current file, the code to edit"
    " between <|code_to_edit|> and <|/code_to_edit|> with the cursor at <|cursor|>, and the latest changes. Predict the"
    " next edit. Reply only with the whole new text of the code to edit, without the tags and without comments. Lines"
    " that do not change stay exactly as they are."
)
_APPLY: Final = (
    "The user's message has a file between <|original_code|> and <|/original_code|>, and an update between"
    " <|update_snippet|> and <|/update_snippet|> in which comments such as '... existing code ...' represent unchanged"
    " lines. Reply only with the whole new text of the file, without the tags and without comments on it. Lines that"
    " the update does not change stay exactly as they are."
)


def parse_edit(
    body: bytes, headers: dict[bytes, bytes], *, now_s: float, key: Key | None, trace: Trace | None = None
) -> Query:
    """See `client_api.Parse`."""
    document, text = _message(body)
    code = without_caret(_required(text, CODE_TO_EDIT))
    instructed = _with_instructions(document, _EDIT)
    return _as_edit(parse_chat(instructed, headers, now_s=now_s, key=key, trace=trace), code)


def parse_apply(
    body: bytes, headers: dict[bytes, bytes], *, now_s: float, key: Key | None, trace: Trace | None = None
) -> Query:
    """See `client_api.Parse`."""
    document, text = _message(body)
    code = _required(text, ORIGINAL_CODE)
    _required(text, UPDATE_SNIPPET)
    instructed = _with_instructions(document, _APPLY)
    return _as_edit(parse_chat(instructed, headers, now_s=now_s, key=key, trace=trace), code)


class CodeWriter:
    """See `client_api.Writer`. The text is code without a fence, or, with `in_fence`, in one of its own.

    Clients of the edit API cut the code out of a fence that ends with an empty line; those of the apply API insert the
    text as it is.
    """

    def __init__(self, query: Query, wall_s: float, *, in_fence: bool) -> None:
        self._query = query
        self._created = int(wall_s)
        self._in_fence = in_fence
        self._is_fenced_source = (query.beyond_chat.source or "").lstrip().startswith("```")
        self._texts: dict[int, _Code] = {}
        self._head: dict[str, Any] = {}

    def whole(self, completion: bytes) -> bytes:
        """The whole answer."""
        document = lenient.load(completion)
        for position, choice in enumerate(document["choices"]):
            message = choice.get("message") or {}
            if isinstance(message.get("content"), str):
                text = self._text_of(lenient.index_of(choice, position))
                message["content"] = text.feed(message["content"]) + text.close()
        return lenient.dump({**self._head_of("chat.completion"), **document})

    def chunks(self, chunk: bytes) -> list[bytes]:
        """One chunk; the text that was held back precedes the finish reason."""
        document = lenient.load(chunk)
        for position, choice in enumerate(document["choices"]):
            index, delta = lenient.index_of(choice, position), choice.get("delta") or {}
            text = delta.get("content")
            written = self._text_of(index).feed(text) if isinstance(text, str) else ""
            if choice.get("finish_reason") is not None:
                written += self._text_of(index).close()
            if written or isinstance(text, str):
                choice["delta"] = {**delta, "content": written}
        self._head = {**self._head_of("chat.completion.chunk"), **document}
        return [lenient.dump(self._head)]

    def end(self) -> list[bytes]:
        """The text that was held back and that no finish reason followed."""
        rests = ((index, text.close()) for index, text in sorted(self._texts.items()) if not text.is_closed)
        choices = [{"index": index, "delta": {"content": rest}, "finish_reason": None} for index, rest in rests if rest]
        return [lenient.dump({**self._head, "choices": choices, "usage": None})] if choices else []

    def _head_of(self, form: str) -> dict[str, Any]:
        return {"id": self._query.request_id, "object": form, "created": self._created, "model": self._query.model}

    def _text_of(self, index: int) -> "_Code":
        unfence = None if self._is_fenced_source else Unfence()
        return self._texts.setdefault(index, _Code(unfence, Fence() if self._in_fence else None))


class _Code:
    """The text of one choice."""

    def __init__(self, unfence: Unfence | None, fence: Fence | None) -> None:
        self._unfence, self._fence = unfence, fence
        self.is_closed = False

    def feed(self, piece: str) -> str:
        """What the client gets for this piece."""
        text = piece if self._unfence is None else self._unfence.feed(piece)
        return text if self._fence is None else self._fence.feed(text)

    def close(self) -> str:
        """What was held back, and the end of the fence."""
        if self.is_closed:
            return ""
        self.is_closed = True
        rest = "" if self._unfence is None else self._unfence.close()
        return rest if self._fence is None else self._fence.feed(rest) + self._fence.close()


def _message(body: bytes) -> tuple[dict[str, Any], str]:
    """The request, and the text of its last message of the user."""
    request, document, _ = decode(body, CHAT)
    return document, last_user_text(request)


def _required(text: str, tag: str) -> str:
    found = section(text, tag)
    if found is None:
        raise InvalidField(f"The user's message must have a section <|{tag}|>...<|/{tag}|>.", param="messages")
    return found


def _with_instructions(document: dict[str, Any], instructions: str) -> bytes:
    messages = document["messages"]
    if all(message.get("role") not in ("system", "developer") for message in messages):
        messages = [{"role": "system", "content": instructions}, *messages]
    return exact_json.dumps({**document, "messages": messages})


def _as_edit(query: Query, source: str) -> Query:
    has_hint = query.task_hint is not None
    return replace(
        query,
        beyond_chat=BeyondChat(source=source),
        task_hint=query.task_hint if has_hint else Task.EDIT,
        task_hint_from=query.task_hint_from if has_hint else "api",
    )
