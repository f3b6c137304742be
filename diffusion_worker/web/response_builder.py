"""Builds one answer and its usage from engine events.

Pure: no sockets, no JSON. `usage` counts what the client receives: tokens after a stop string are not counted.
"""

import dataclasses
from collections.abc import Sequence

from diffusion_worker.text.alignment import count_kept
from diffusion_worker.text.channels import (
    ChannelOutput,
    ChannelParser,
    ControlTokens,
    ParserOptions,
    control_tokens_of,
)
from diffusion_worker.text.token_logprobs import ChannelLogprobs, TextLogprobs, readable, token_text
from diffusion_worker.text.tokenizer import Tokenizer
from diffusion_worker.types.events import (
    BlockSealed,
    Finished,
    FinishReason,
    PrefixStable,
    PromptScored,
    TokenLogprobs,
    Usage,
    together,
)

NO_CONTROL_TOKENS = ControlTokens(thought=None, call=None, quote=None)  # every token is text


class ResponseBuilder:
    """Add each final block, then close once. Once `stopped` is true, no more blocks are needed."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        options: ParserOptions,
        prompt_ids: Sequence[int] = (),
        *,
        prediction: Sequence[int] = (),
        layouts: Sequence[Sequence[str]] = (),
        spent: Usage | None = None,
    ) -> None:
        """`layouts`: the equivalent texts of each label; the first is reported. `spent`: usage of failed attempts."""
        self._tokenizer, self._options, self._prompt_ids = tokenizer, options, prompt_ids
        self._parser = ChannelParser(
            tokenizer, control_tokens_of(tokenizer) if options.channels else NO_CONTROL_TOKENS, options, prompt_ids
        )
        self._prediction, self._layouts = prediction, layouts
        self._ids: list[int] = []
        self._text_ids: list[int] = []
        self._counted = 0  # completion tokens before the current block
        self._usage: Usage | None = None
        self._spent = spent
        self._logprobs: list[TokenLogprobs] = []
        self._kept_logprobs: list[TokenLogprobs] = []  # of the failed attempt before
        self._calls = 0
        self.stopped = False

    def restart(self) -> "ResponseBuilder":
        """An empty builder for the next attempt at the same request; it includes the usage so far."""
        again = ResponseBuilder(
            self._tokenizer,
            self._options,
            self._prompt_ids,
            prediction=self._prediction,
            layouts=self._layouts,
            spent=self.usage,
        )
        again._kept_logprobs = self._logprobs
        return again

    @property
    def ids(self) -> tuple[int, ...]:
        """All token ids of the answer so far, including its prefix."""
        return tuple(self._ids)

    def resume(self, ids: tuple[int, ...]) -> ChannelOutput:
        """Start with ids kept from an earlier attempt, whose usage is already counted."""
        self._ids += ids
        self._logprobs += self._kept_logprobs[: len(ids)]
        output = self._parser.feed(ids, self._logprobs)
        self._text_ids += output.text_ids
        self._calls += len(output.calls)
        return output

    def prompt_output(self, scored: PromptScored) -> ChannelOutput:
        """The log-probabilities of the prompt, as output before that of the answer. What an earlier attempt kept of its
        answer is not part of it."""
        first = TextLogprobs(token=token_text(self._tokenizer, self._prompt_ids[0]), logprob=None)
        others = scored.tokens[: len(self._prompt_ids) - 1]
        tokens = (first, *(readable(self._tokenizer, each) for each in others))
        return ChannelOutput(text="", thought="", calls=(), ids_read=0, text_ids=(), prompt=tokens)

    @property
    def reasoning_tokens(self) -> int:
        """Completion tokens of the thought channel."""
        return self._parser.thought_ids

    @property
    def accepted_prediction_tokens(self) -> int:
        """Tokens of the prediction that occur in the text in the same order, not necessarily adjacent."""
        return count_kept(self._text_ids, self._prediction)

    @property
    def rejected_prediction_tokens(self) -> int:
        """Tokens of the prediction that were not accepted."""
        return len(self._prediction) - self.accepted_prediction_tokens

    def add(self, block: BlockSealed | PrefixStable) -> ChannelOutput:
        """Add a block; returns the output that has become final."""
        self._ids += block.ids
        logprobs = block.logprobs if isinstance(block, BlockSealed) else ()
        self._logprobs += logprobs
        output = self._parser.feed(block.ids, logprobs)
        self._text_ids += output.text_ids
        self._calls += len(output.calls)
        self._usage, self.stopped = block.usage, self._parser.stopped
        if self.stopped:
            self._usage = dataclasses.replace(block.usage, completion_tokens=self._counted + output.ids_read)
        self._counted = self._usage.completion_tokens
        if isinstance(block, PrefixStable):
            return output
        end = () if self.stopped else logprobs[len(block.ids) :]
        ended = ChannelLogprobs(end=tuple(readable(self._tokenizer, each) for each in end))
        labels = self._ranked(block.labels)
        return dataclasses.replace(output, labels=labels, logprobs=output.logprobs + ended)

    def _ranked(self, logprobs: Sequence[float]) -> tuple[tuple[str, float], ...]:
        """Labels and their log-probabilities, most likely first."""
        texts = [layouts[0] for layouts in self._layouts[: len(logprobs)]]
        return tuple(sorted(zip(texts, logprobs, strict=True), key=lambda label: -label[1]))

    def close(self, finished: Finished | None) -> ChannelOutput:
        """The output held back so far. `finished` is None when a stop string ended the answer."""
        if finished is not None and not self.stopped:
            self._usage = finished.usage
        output = self._parser.flush()
        self._text_ids += output.text_ids
        self._calls += len(output.calls)
        return output

    @property
    def usage(self) -> Usage | None:
        """Usage so far, including earlier attempts; None before the first block."""
        return together(self._spent, self._usage) if self._spent and self._usage else self._usage or self._spent

    def final_usage(self) -> Usage:
        """Usage after the first block or the end of the sequence."""
        usage = self.usage
        assert usage is not None, "no usage before the first block"
        return usage

    def finish_reason(self, finished: Finished | None) -> str:
        """OpenAI's `finish_reason`; call it after `close`.

        `length` for a token limit or a deadline; otherwise `tool_calls` if there are any, or `stop`."""
        if finished is not None and finished.reason is not FinishReason.STOP:
            return "length"
        return "tool_calls" if self._calls else "stop"

    def draft_text(self, ids: Sequence[int]) -> str:
        """The text of ids that may still change."""
        return b"".join(map(self._tokenizer.token_bytes, ids)).decode(errors="replace")
