"""Splits the tokens of an answer into text, thought and tool calls at the control tokens between them.

    <|channel>thought … <channel|> the answer <|tool_call>call:name{…}<tool_call|>

These are the control tokens of the released checkpoint. A checkpoint whose tokenizer lacks a pair does not have that
channel; without call tokens, tool calls are parsed from the text (see `tagged_tool_calls`). The result does not depend
on block boundaries.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from diffusion_worker.constraints.automata.control_tokens import Placeholder
from diffusion_worker.constraints.tool_calls import Syntax
from diffusion_worker.text.detokenize import Detokenizer
from diffusion_worker.text.tagged_tool_calls import TaggedCallReader
from diffusion_worker.text.token_logprobs import (
    NO_LOGPROBS,
    ChannelLogprobs,
    ChannelTokens,
    Scored,
    TextLogprobs,
)
from diffusion_worker.text.tokenizer import Tokenizer
from diffusion_worker.text.tool_calls import ToolCall, read_call
from diffusion_worker.types.events import TokenLogprobs

THOUGHT = ("<|channel>", "<channel|>")
CALL = ("<|tool_call>", "<tool_call|>")
QUOTE = '<|"|>'
THOUGHT_NAME = "thought"  # the line after the opening token


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlTokens:
    """Ids of the control tokens; None where the checkpoint does not have them."""

    thought: tuple[int, int] | None  # opening and closing token
    call: tuple[int, int] | None
    quote: int | None

    @property
    def supports_calls(self) -> bool:
        """Whether native tool calls can be parsed."""
        return self.call is not None and self.quote is not None

    def has_open_thought(self, prompt_ids: Sequence[int]) -> bool:
        """Whether the prompt ends inside a thought that the template opened."""
        if self.thought is None:
            return False
        last = next((token for token in reversed(prompt_ids) if token in self.thought), None)
        return last == self.thought[0]

    def placeholders(self) -> dict[int, Placeholder]:
        """The placeholder of each control token in a constraint, by id."""
        thought = zip(self.thought or (), (Placeholder.THOUGHT_OPENS, Placeholder.THOUGHT_CLOSES), strict=False)
        call = zip(self.call or (), (Placeholder.CALL_OPENS, Placeholder.CALL_CLOSES), strict=False)
        return {**dict(thought), **dict(call), **({} if self.quote is None else {self.quote: Placeholder.QUOTE})}


def control_tokens_of(tokenizer: Tokenizer) -> ControlTokens:
    """The control tokens of a tokenizer."""
    ids = tokenizer.specials

    def pair(texts: tuple[str, str]) -> tuple[int, int] | None:
        opens, closes = map(ids.get, texts)
        return None if opens is None or closes is None else (opens, closes)

    return ControlTokens(thought=pair(THOUGHT), call=pair(CALL), quote=ids.get(QUOTE))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOutput:
    """Output that has become final."""

    text: str
    thought: str
    calls: tuple[ToolCall, ...]
    ids_read: int  # input ids consumed
    text_ids: tuple[int, ...]  # the consumed ids that belong to the text
    logprobs: ChannelLogprobs = NO_LOGPROBS  # if requested
    prompt: tuple[TextLogprobs, ...] = ()  # log-probabilities of the prompt, if requested
    labels: tuple[tuple[str, float], ...] = ()  # labels and log-probabilities, most likely first; empty: not requested


@dataclass(frozen=True, slots=True, kw_only=True)
class ParserOptions:
    """How to parse an answer."""

    stops: tuple[str, ...] = ()  # stop strings; thoughts and tool calls are not searched
    calls: Syntax | None = None  # syntax of tool calls; None: treated as text
    channels: bool = True  # false for text completions: every token is text


class _Channel(Enum):
    TEXT = auto()
    THOUGHT = auto()
    CALL = auto()


class ChannelParser:
    """Parser of one answer. Feed ids as they arrive, then flush once; ids after a stop string are ignored."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        control_tokens: ControlTokens,
        options: ParserOptions,
        prompt_ids: Sequence[int] = (),
    ) -> None:
        self._tokenizer, self._options = tokenizer, options
        self._thought_tokens = control_tokens.thought or (None, None)
        self._call_tokens = (control_tokens.call if options.calls is Syntax.NATIVE else None) or (None, None)
        self._quote = control_tokens.quote
        self._detokenizer = Detokenizer(tokenizer, options.stops)
        self._tagged_calls = _TaggedCalls(tokenizer) if options.calls is Syntax.TAGGED else None
        self._thought = _Thought(tokenizer)
        self._call: list[Scored] = []  # the opening token and the tokens after it
        self._heading: list[Scored] = []  # tokens of a thought that may be the name of its channel
        self._undecided: list[Scored] = []  # tokens that are text unless they are part of a tagged call
        self._channel = _Channel.TEXT
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ToolCall] = []
        self._tokens = ChannelTokens(tokenizer)
        if control_tokens.has_open_thought(prompt_ids):
            self._open_thought()

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._detokenizer.stopped

    @property
    def thought_ids(self) -> int:
        """Number of thought tokens, without control tokens and the channel name."""
        return self._thought.ids

    def feed(self, ids: Iterable[int], logprobs: Iterable[TokenLogprobs] = ()) -> ChannelOutput:
        """Consume ids, with the log-probabilities of as many of them as are known; returns the output that is final
        after them."""
        read, known = 0, iter(logprobs)
        for token in ids:
            if self.stopped:
                break
            read += 1
            self._feed_token((token, next(known, None)))
        return self._output(read)

    def flush(self) -> ChannelOutput:
        """The remaining output, at the end of the answer. A complete tool call does not need its closing token."""
        if self._channel is _Channel.CALL:
            self._close_call()
        self._end_thought()
        if self._tagged_calls is not None:
            self._add_parsed(self._tagged_calls.flush())
        self._decide(self._tokens.text)
        self._texts.append(self._detokenizer.flush().text)
        return self._output(0)

    def _feed_token(self, scored: Scored) -> None:
        token, _ = scored
        if token == self._thought_tokens[0]:
            self._open_thought()
        elif token == self._call_tokens[0]:
            self._close_channel()
            self._channel, self._call = _Channel.CALL, [scored]
        elif self._channel is _Channel.THOUGHT:
            self._feed_thought(scored)
        elif self._channel is _Channel.CALL:
            self._call.append(scored)
            if token == self._call_tokens[1]:
                self._close_call()
        elif token not in (self._thought_tokens[1], self._call_tokens[1]):
            self._feed_text(scored)

    def _feed_text(self, scored: Scored) -> None:
        if self._tagged_calls is None:
            self._tokens.text.append(scored)
            self._texts.append(self._detokenizer.feed(scored[:1]).text)
            return
        self._undecided.append(scored)
        if self._add_parsed(self._tagged_calls.feed(scored[0])):
            self._decide(self._tokens.calls)
        elif not self._tagged_calls.is_holding:
            self._decide(self._tokens.text)

    def _decide(self, channel: list[Scored]) -> None:
        """Assign the tokens that are undecided."""
        channel += self._undecided
        self._undecided.clear()

    def _add_parsed(self, parsed: Iterable[str | ToolCall]) -> bool:
        """Take in parsed output; returns whether a call was part of it."""
        calls = len(self._calls)
        for each in parsed:
            if isinstance(each, ToolCall):
                self._calls.append(each)
            else:
                self._texts.append(self._detokenizer.add(each))
        return len(self._calls) > calls

    def _feed_thought(self, scored: Scored) -> None:
        if scored[0] == self._thought_tokens[1]:
            self._close_channel()
            return
        self._heading.append(scored)
        self._thoughts.append(self._thought.feed(scored[0]))
        if self._thought.is_heading:
            return
        if self._thought.ends_name:
            self._heading = [scored] if self._thought.begins_text else []
        self._tokens.thought += self._heading
        self._heading = []

    def _end_thought(self) -> None:
        text = self._thought.close()
        self._thoughts.append(text)
        self._tokens.thought += self._heading if text else ()
        self._heading = []

    def _open_thought(self) -> None:
        self._close_channel()
        self._channel = _Channel.THOUGHT
        self._thought.open()

    def _close_channel(self) -> None:
        """Close the open channel and return to text."""
        if self._channel is _Channel.CALL:
            self._close_call()
        elif self._channel is _Channel.THOUGHT:
            self._end_thought()
        else:
            self._texts.append(self._detokenizer.cut())
        self._channel = _Channel.TEXT

    def _close_call(self) -> None:
        """Emit the tool call, or its text if it is malformed."""
        call = read_call(self._segments())
        if call is None:
            self._tokens.text += self._call
            ids = [token for token, _ in self._call]
            self._texts.append(self._detokenizer.add(self._tokenizer.decode_with_specials(ids)))
        else:
            self._tokens.calls += self._call
            self._calls.append(call)
        self._channel, self._call = _Channel.TEXT, []

    def _segments(self) -> list[str]:
        """The text of the tool call, split at its quote tokens."""
        parts: list[list[int]] = [[]]
        for token, _ in self._call:
            if token == self._quote:
                parts.append([])
            else:
                parts[-1].append(token)
        return [b"".join(map(self._tokenizer.token_bytes, part)).decode(errors="replace") for part in parts]

    def _output(self, read: int) -> ChannelOutput:
        text_ids, logprobs = self._tokens.take()
        output = ChannelOutput(
            text="".join(self._texts),
            thought="".join(self._thoughts),
            calls=tuple(self._calls),
            ids_read=read,
            text_ids=text_ids,
            logprobs=logprobs,
        )
        for buffer in (self._texts, self._thoughts, self._calls):
            buffer.clear()
        return output


class _TaggedCalls:
    """Parses tagged tool calls from token ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._detokenizer, self._parser = Detokenizer(tokenizer), TaggedCallReader()

    @property
    def is_holding(self) -> bool:
        return self._parser.is_holding

    def feed(self, token: int) -> Iterable[str | ToolCall]:
        return self._parser.feed(self._detokenizer.feed((token,)).text)

    def flush(self) -> Iterable[str | ToolCall]:
        return (*self._parser.feed(self._detokenizer.flush().text), self._parser.flush())


class _Thought:
    """The text of thoughts, without the channel name and trailing white space.

    The empty thought that a model writes when it does not think produces no text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._head: str | None = None  # text that may be the channel name; None after it
        self._held = ""  # trailing white space, emitted only if more text follows
        self._is_empty = True
        self.ids = 0
        self.ends_name = self.begins_text = False  # of the last id: it completed the name, and text follows in it

    @property
    def is_heading(self) -> bool:
        """Whether the ids so far may be the channel name."""
        return self._head is not None

    def open(self) -> None:
        """Start a thought channel."""
        self._head = ""
        self._held = "" if self._is_empty else "\n"

    def feed(self, token: int) -> str:
        """Consume one id; returns the thought text that is final after it."""
        was_named, self.ends_name = self._head is None, False
        text = self._without_name(self._detokenizer.feed((token,)).text)
        self.ids += was_named or bool(text)
        return self._without_end(text)

    def close(self) -> str:
        """End the channel; returns the remaining text."""
        text = self._detokenizer.cut()
        if self._head is not None:
            head, self._head = self._head + text, None
            text = "" if head == THOUGHT_NAME else head
        text = self._without_end(text)
        self._held = ""
        return text

    def _without_name(self, text: str) -> str:
        if self._head is None:
            return text
        self._head += text
        if f"{THOUGHT_NAME}\n".startswith(self._head) and self._head != f"{THOUGHT_NAME}\n":
            return ""
        head, self._head = self._head, None
        text = head.removeprefix(f"{THOUGHT_NAME}\n")
        self.ends_name, self.begins_text = text != head, bool(text)
        return text

    def _without_end(self, text: str) -> str:
        text = self._held + text
        kept = text.rstrip()
        self._held = text[len(kept) :]
        self._is_empty = self._is_empty and not kept
        return kept
