"""Log-probabilities of tokens as texts, and their division among text, thoughts and tool calls."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from diffusion_worker.text.tokenizer import Tokenizer
from diffusion_worker.types.events import TokenLogprobs

Scored = tuple[int, TokenLogprobs | None]  # a token, and its log-probabilities if they are requested


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenText:
    """The bytes of a token; a control token has none, but a name."""

    data: bytes
    control: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLogprobs:
    """A token, its log-probability, and the most likely tokens. None: nothing predicts the first token of a prompt."""

    token: TokenText
    logprob: float | None
    top: tuple[tuple[TokenText, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelLogprobs:
    """Log-probabilities by channel, and those of an end token, which is part of none."""

    text: tuple[TextLogprobs, ...] = ()
    thought: tuple[TextLogprobs, ...] = ()
    calls: tuple[TextLogprobs, ...] = ()
    end: tuple[TextLogprobs, ...] = ()

    def __add__(self, other: "ChannelLogprobs") -> "ChannelLogprobs":
        return ChannelLogprobs(
            text=self.text + other.text,
            thought=self.thought + other.thought,
            calls=self.calls + other.calls,
            end=self.end + other.end,
        )


NO_LOGPROBS: Final = ChannelLogprobs()


def readable(tokenizer: Tokenizer, scored: TokenLogprobs) -> TextLogprobs:
    """The log-probabilities of a token with texts instead of ids."""
    top = tuple((token_text(tokenizer, token), logprob) for token, logprob in scored.top)
    return TextLogprobs(token=token_text(tokenizer, scored.id), logprob=scored.logprob, top=top)


def token_text(tokenizer: Tokenizer, token: int) -> TokenText:
    """The text of a token."""
    data = tokenizer.token_bytes(token)
    return TokenText(data=data, control="" if data else tokenizer.decode_with_specials((token,)))


@dataclass(slots=True)
class ChannelTokens:
    """The tokens of each channel since the last output."""

    tokenizer: Tokenizer
    text: list[Scored] = field(default_factory=list)
    thought: list[Scored] = field(default_factory=list)
    calls: list[Scored] = field(default_factory=list)

    def take(self) -> tuple[tuple[int, ...], ChannelLogprobs]:
        """(ids of the text, log-probabilities) since the last call."""
        ids = tuple(token for token, _ in self.text)
        logprobs = ChannelLogprobs(
            text=self._readable(self.text), thought=self._readable(self.thought), calls=self._readable(self.calls)
        )
        for tokens in (self.text, self.thought, self.calls):
            tokens.clear()
        return ids, logprobs

    def _readable(self, tokens: Sequence[Scored]) -> tuple[TextLogprobs, ...]:
        return tuple(readable(self.tokenizer, scored) for _, scored in tokens if scored is not None)
