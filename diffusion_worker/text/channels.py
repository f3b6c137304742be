"""What an answer says, what it thinks and what it calls: its ids, sorted by the control tokens between them.

    <|channel>thought … <channel|> the answer <|tool_call>call:name{…}<tool_call|>

These are the released checkpoint's tokens. A checkpoint whose tokenizer lacks a pair has no such channel; where those
of calls are lacking, calls are looked for in the text (see `envelope`). Ids come in pieces of any size: nothing depends
on the borders of blocks. Knows no wire.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from diffusion_worker.constraints.automata.control_tokens import Placeholder
from diffusion_worker.constraints.tool_calls import Syntax
from diffusion_worker.text.detokenize import Detokenizer
from diffusion_worker.text.tagged_tool_calls import TaggedCallReader
from diffusion_worker.text.tokenizer import Tokenizer
from diffusion_worker.text.tool_calls import ToolCall, read_call

THOUGHT = ("<|channel>", "<channel|>")
CALL = ("<|tool_call>", "<tool_call|>")
QUOTE = '<|"|>'
THOUGHT_NAME = "thought"  # stands behind the opening token, on a line of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlTokens:
    """Ids of the control tokens; None where the checkpoint has none."""

    thought: tuple[int, int] | None  # opens, closes
    call: tuple[int, int] | None
    quote: int | None

    @property
    def supports_calls(self) -> bool:
        """Whether calls can be read."""
        return self.call is not None and self.quote is not None

    def has_open_thought(self, prompt_ids: Sequence[int]) -> bool:
        """Whether the template has begun the thought that the model is to continue."""
        if self.thought is None:
            return False
        last = next((token for token in reversed(prompt_ids) if token in self.thought), None)
        return last == self.thought[0]

    def placeholders(self) -> dict[int, Placeholder]:
        """By id, what stands for them in a constraint."""
        thought = zip(self.thought or (), (Placeholder.THOUGHT_OPENS, Placeholder.THOUGHT_CLOSES), strict=False)
        call = zip(self.call or (), (Placeholder.CALL_OPENS, Placeholder.CALL_CLOSES), strict=False)
        return {**dict(thought), **dict(call), **({} if self.quote is None else {self.quote: Placeholder.QUOTE})}


def control_tokens_of(tokenizer: Tokenizer) -> ControlTokens:
    """The control tokens that a tokenizer knows."""
    ids = tokenizer.specials

    def pair(texts: tuple[str, str]) -> tuple[int, int] | None:
        opens, closes = map(ids.get, texts)
        return None if opens is None or closes is None else (opens, closes)

    return ControlTokens(thought=pair(THOUGHT), call=pair(CALL), quote=ids.get(QUOTE))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOutput:
    """What has become final, and what was read for it."""

    text: str
    thought: str
    calls: tuple[ToolCall, ...]
    ids_read: int  # of those given
    text_ids: tuple[int, ...]  # those of them that belong to the text
    labels: tuple[tuple[str, float], ...] = ()  # log-probabilities of labels, the likeliest first, where asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class ParserOptions:
    """How an answer is to be read. Without `calls`, their syntax, a call is text like any other."""

    stops: tuple[str, ...] = ()  # end the text; thoughts and calls are not searched
    calls: Syntax | None = None
    channels: bool = True  # without, all is text: what was asked for is no turn of a conversation


class _Channel(Enum):
    TEXT = auto()
    THOUGHT = auto()
    CALL = auto()


class ChannelParser:
    """One answer. Feed ids as they come, then flush once; after `stopped` no further id is read."""

    def __init__(
        self, tokenizer: Tokenizer, control_tokens: ControlTokens, wanted: ParserOptions, prompt_ids: Sequence[int] = ()
    ) -> None:
        self._tokenizer, self._wanted = tokenizer, wanted
        self._thought_tokens = control_tokens.thought or (None, None)
        self._call_tokens = (control_tokens.call if wanted.calls is Syntax.NATIVE else None) or (None, None)
        self._quote = control_tokens.quote
        self._detokenizer = Detokenizer(tokenizer, wanted.stops)
        self._tagged_calls = _TaggedCalls(tokenizer) if wanted.calls is Syntax.TAGGED else None
        self._thought = _Thought(tokenizer)
        self._call: list[int] = []  # the opening token and what followed
        self._channel = _Channel.TEXT
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ToolCall] = []
        self._text_ids: list[int] = []
        if control_tokens.has_open_thought(prompt_ids):
            self._open_thought()

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the answer."""
        return self._detokenizer.stopped

    @property
    def thought_ids(self) -> int:
        """How many ids of thought there were, control tokens and the channel's name left out."""
        return self._thought.ids

    def feed(self, ids: Iterable[int]) -> ChannelOutput:
        """What is final after these ids."""
        read = 0
        for token in ids:
            if self.stopped:
                break
            read += 1
            self._take(token)
        return self._outputs(read)

    def flush(self) -> ChannelOutput:
        """What was held back, now that nothing follows. A call whose end token the end of the turn has swallowed is
        still one if it is whole."""
        if self._channel is _Channel.CALL:
            self._close_call()
        self._thoughts.append(self._thought.close())
        if self._tagged_calls is not None:
            self._take_found(self._tagged_calls.flush())
        self._texts.append(self._detokenizer.flush().text)
        return self._outputs(0)

    def _take(self, token: int) -> None:
        if token == self._thought_tokens[0]:
            self._open_thought()
        elif token == self._call_tokens[0]:
            self._leave()
            self._channel, self._call = _Channel.CALL, [token]
        elif self._channel is _Channel.THOUGHT:
            self._think(token)
        elif self._channel is _Channel.CALL:
            self._call.append(token)
            if token == self._call_tokens[1]:
                self._close_call()
        elif token not in (self._thought_tokens[1], self._call_tokens[1]):
            self._say(token)

    def _say(self, token: int) -> None:
        if self._tagged_calls is None:
            self._text_ids.append(token)
            self._texts.append(self._detokenizer.feed((token,)).text)
            return
        self._take_found(self._tagged_calls.feed(token))
        if not self._tagged_calls.is_calling:
            self._text_ids.append(token)

    def _take_found(self, found: Iterable[str | ToolCall]) -> None:
        for each in found:
            if isinstance(each, ToolCall):
                self._calls.append(each)
            else:
                self._texts.append(self._detokenizer.add(each))

    def _think(self, token: int) -> None:
        if token == self._thought_tokens[1]:
            self._leave()
        else:
            self._thoughts.append(self._thought.feed(token))

    def _open_thought(self) -> None:
        self._leave()
        self._channel = _Channel.THOUGHT
        self._thought.open()

    def _leave(self) -> None:
        """Back to text; what was begun and not ended is settled."""
        if self._channel is _Channel.CALL:
            self._close_call()
        elif self._channel is _Channel.THOUGHT:
            self._thoughts.append(self._thought.close())
        else:
            self._texts.append(self._detokenizer.cut())
        self._channel = _Channel.TEXT

    def _close_call(self) -> None:
        """A call, or, where it is none, the text that it is."""
        call = read_call(self._segments())
        if call is None:
            self._texts.append(self._detokenizer.add(self._tokenizer.decode_with_specials(self._call)))
        else:
            self._calls.append(call)
        self._channel, self._call = _Channel.TEXT, []

    def _segments(self) -> list[str]:
        """The text of the call, cut at its quotes."""
        parts: list[list[int]] = [[]]
        for token in self._call:
            if token == self._quote:
                parts.append([])
            else:
                parts[-1].append(token)
        return [b"".join(map(self._tokenizer.token_bytes, part)).decode(errors="replace") for part in parts]

    def _outputs(self, read: int) -> ChannelOutput:
        output = ChannelOutput(
            text="".join(self._texts),
            thought="".join(self._thoughts),
            calls=tuple(self._calls),
            ids_read=read,
            text_ids=tuple(self._text_ids),
        )
        for taken in (self._texts, self._thoughts, self._calls, self._text_ids):
            taken.clear()
        return output


class _TaggedCalls:
    """Ids to text and calls."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._detokenizer, self._reader = Detokenizer(tokenizer), TaggedCallReader()

    @property
    def is_calling(self) -> bool:
        return self._reader.is_calling

    def feed(self, token: int) -> Iterable[str | ToolCall]:
        return self._reader.feed(self._detokenizer.feed((token,)).text)

    def flush(self) -> Iterable[str | ToolCall]:
        return (*self._reader.feed(self._detokenizer.flush().text), self._reader.flush())


class _Thought:
    """The text of thoughts: without the channel's name in front and white space behind, so that the block a model
    writes when it does not think leaves nothing."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._head: str | None = None  # while it may be the name; None behind it
        self._held = ""  # white space, which leaves only if more follows
        self._is_empty = True
        self.ids = 0

    def open(self) -> None:
        """A channel begins."""
        self._head = ""
        self._held = "" if self._is_empty else "\n"

    def feed(self, token: int) -> str:
        """The thought that is final after this id."""
        was_named = self._head is None
        text = self._behind_name(self._detokenizer.feed((token,)).text)
        self.ids += was_named or bool(text)
        return self._without_end(text)

    def close(self) -> str:
        """The channel ends, or the answer."""
        text = self._detokenizer.cut()
        if self._head is not None:
            head, self._head = self._head + text, None
            text = "" if head == THOUGHT_NAME else head
        text = self._without_end(text)
        self._held = ""
        return text

    def _behind_name(self, text: str) -> str:
        if self._head is None:
            return text
        self._head += text
        if f"{THOUGHT_NAME}\n".startswith(self._head) and self._head != f"{THOUGHT_NAME}\n":
            return ""
        text, self._head = self._head.removeprefix(f"{THOUGHT_NAME}\n"), None
        return text

    def _without_end(self, text: str) -> str:
        text = self._held + text
        kept = text.rstrip()
        self._held = text[len(kept) :]
        self._is_empty = self._is_empty and not kept
        return kept
