"""Answers to text completions, written from chat completions.

`/v1/completions` has OpenAI's form. `/v1/fim/completions` has each text twice, as clients of Mistral's and Inception's
APIs read them: `text`, and `message.content` or, in a stream, `delta.content`.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.types import Query
from gateway.upstreams.answers import lenient
from gateway.web.apis.fences import Unfence

_OWN: Final = frozenset({"object", "choices"})
_FENCE: Final = "```"


class TextWriter:
    """See `client_api.Writer`. `wall_s` is the time in seconds since the epoch."""

    def __init__(self, query: Query, wall_s: float, *, is_fill_in: bool = False) -> None:
        self._query = query
        self._created = int(wall_s)
        self._is_fill_in = is_fill_in
        self._head: dict[str, Any] = {}  # of the last chunk
        self._texts: dict[int, _ChoiceText] = {}

    def whole(self, completion: bytes) -> bytes:
        """The whole answer."""
        document = lenient.load(completion)
        choices = [self._whole_choice(position, choice) for position, choice in enumerate(document["choices"])]
        return lenient.dump({**self._head_of(document, "chat.completion"), "choices": choices})

    def chunks(self, chunk: bytes) -> list[bytes]:
        """One chunk. Those that only begin a message are left out."""
        document = lenient.load(chunk)
        self._head = self._head_of(document, "chat.completion.chunk")
        given = document["choices"]
        choices = [written for at, each in enumerate(given) if (written := self._chunk_choice(at, each)) is not None]
        return [lenient.dump({**self._head, "choices": choices})] if choices or not given else []

    def end(self) -> list[bytes]:
        """The text that was held back and that no finish reason followed."""
        rests = ((index, text.close()) for index, text in sorted(self._texts.items()))
        choices = [self._choice(index, rest, None, None, "delta") for index, rest in rests if rest]
        head = {name: value for name, value in self._head.items() if name != "usage"}
        return [lenient.dump({**head, "choices": choices})] if choices else []

    def _head_of(self, document: Mapping[str, Any], form: str) -> dict[str, Any]:
        head = {
            "id": document.get("id") or self._query.request_id,
            "object": form if self._is_fill_in else "text_completion",
            "created": self._created,
            "model": self._query.model,
            **{name: value for name, value in document.items() if name not in _OWN and value is not None},
        }
        head["id"] = str(head["id"]).replace("chatcmpl-", "cmpl-", 1)
        if isinstance(document.get("usage"), dict):
            head["usage"] = _with_total(document["usage"])
        elif "usage" in document:
            head["usage"] = None
        return head

    def _whole_choice(self, position: int, choice: dict[str, Any]) -> dict[str, Any]:
        index = lenient.index_of(choice, position)
        text = self._text_of(index)
        content = text.feed((choice.get("message") or {}).get("content") or "") + text.close()
        logprobs = text.logprobs(choice.get("logprobs"))
        return self._choice(index, content, choice.get("finish_reason"), logprobs, "message")

    def _chunk_choice(self, position: int, choice: dict[str, Any]) -> dict[str, Any] | None:
        index, reason = lenient.index_of(choice, position), choice.get("finish_reason")
        text = self._text_of(index)
        content = text.feed((choice.get("delta") or {}).get("content") or "")
        if reason is not None:
            content += text.close()
        logprobs = text.logprobs(choice.get("logprobs"))
        if not content and reason is None and logprobs is None:
            return None
        return self._choice(index, content, reason, logprobs, "delta")

    def _text_of(self, index: int) -> "_ChoiceText":
        """Created once: it searches the whole prompt."""
        if index not in self._texts:
            self._texts[index] = _ChoiceText(self._query, index)
        return self._texts[index]

    def _choice(
        self, index: int, text: str, reason: str | None, logprobs: dict[str, Any] | None, body: str
    ) -> dict[str, Any]:
        written: dict[str, Any] = {"index": index, "text": text}
        if self._is_fill_in:
            written[body] = {"role": "assistant", "content": text} if body == "message" else {"content": text}
        return {**written, "logprobs": logprobs, "finish_reason": reason}


class _ChoiceText:
    """The text of one choice: after its prompt with `echo`, and without a fence that the text around a gap lacks."""

    def __init__(self, query: Query, index: int) -> None:
        prompts = query.beyond_chat.prompts
        prompt = prompts[min(index * len(prompts) // max(1, query.n), len(prompts) - 1)]
        text = prompt.text if isinstance(prompt.text, str) else ""
        around = text + (prompt.suffix or "")
        self._before = (text if prompt.marked is None else prompt.marked) if query.beyond_chat.echo else ""
        self._unfence = Unfence() if prompt.suffix is not None and _FENCE not in around else None
        self._offset = 0

    def feed(self, piece: str) -> str:
        """What the client gets for this piece."""
        before, self._before = self._before, ""
        return before + (piece if self._unfence is None else self._unfence.feed(piece))

    def close(self) -> str:
        """What was held back."""
        if self._unfence is None:
            return ""
        unfence, self._unfence = self._unfence, None
        return unfence.close()

    def logprobs(self, given: Any) -> dict[str, Any] | None:
        """OpenAI's parallel lists; None if there are none. Offsets count characters from the beginning of the text;
        those of the target come first, because tokens may be parts of characters."""
        records = given.get("content") if isinstance(given, dict) else None
        if not isinstance(records, list) or not all(isinstance(each, dict) for each in records):
            return None
        tokens = [str(each.get("token", "")) for each in records]
        offsets = []
        for token, record in zip(tokens, records, strict=True):
            given_offset = record.get("text_offset")
            self._offset = given_offset if isinstance(given_offset, int) else self._offset
            offsets.append(self._offset)
            self._offset += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [each.get("logprob") for each in records],
            "top_logprobs": [_top(each.get("top_logprobs")) for each in records],
            "text_offset": offsets,
        }


def _top(given: Any) -> dict[str, Any] | None:
    if not isinstance(given, list):
        return None
    return {str(each.get("token")): each.get("logprob") for each in given if isinstance(each, dict)}


def _with_total(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The usage with the sum that some servers leave out and clients of this API require."""
    counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if usage.get("total_tokens") is not None or not all(isinstance(count, int) for count in counts):
        return dict(usage)
    return {**usage, "total_tokens": sum(count for count in counts if isinstance(count, int))}
