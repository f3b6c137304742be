"""One answer and its account, from the engine's events: pure, fed by whoever waits for them.

Knows no sockets and no JSON. `usage` speaks of what the client receives: ids behind a stop string are not counted.
"""

import dataclasses
from collections.abc import Sequence

from diffusion_worker.text.alignment import count_kept
from diffusion_worker.text.channels import ChannelOutput, ChannelParser, ControlTokens, ParserOptions, control_tokens_of
from diffusion_worker.text.tokenizer import Tokenizer
from diffusion_worker.types.events import (
    BlockSealed,
    Finished,
    FinishReason,
    PrefixStable,
    Usage,
    together,
)

NO_CONTROL_TOKENS = ControlTokens(thought=None, call=None, quote=None)  # all is text


class ResponseBuilder:
    """Take whatever becomes final, then close once. After `stopped` nothing further is wanted."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        wanted: ParserOptions,
        prompt_ids: Sequence[int] = (),
        *,
        prediction: Sequence[int] = (),
        layouts: Sequence[Sequence[str]] = (),
        spent: Usage | None = None,
    ) -> None:
        """`layouts`: the texts that mean each label, of which the first is told. `spent` on attempts that came to
        nothing."""
        self._tokenizer, self._wanted, self._prompt_ids = tokenizer, wanted, prompt_ids
        self._parser = ChannelParser(
            tokenizer, control_tokens_of(tokenizer) if wanted.channels else NO_CONTROL_TOKENS, wanted, prompt_ids
        )
        self._prediction, self._layouts = prediction, layouts
        self._ids: list[int] = []
        self._text_ids: list[int] = []
        self._counted = 0  # completion tokens before the present block
        self._usage: Usage | None = None
        self._spent = spent
        self._calls = 0
        self.stopped = False

    def restarted(self) -> "ResponseBuilder":
        """One of the same request, of which nothing has been said, but for what this one has cost."""
        return ResponseBuilder(
            self._tokenizer,
            self._wanted,
            self._prompt_ids,
            prediction=self._prediction,
            layouts=self._layouts,
            spent=self.usage,
        )

    @property
    def ids(self) -> tuple[int, ...]:
        """All of the answer so far, a header included."""
        return tuple(self._ids)

    def keep(self, ids: tuple[int, ...]) -> ChannelOutput:
        """The answer begins as a former attempt did; that has been accounted for."""
        self._ids += ids
        output = self._parser.feed(ids)
        self._text_ids += output.text_ids
        self._calls += len(output.calls)
        return output

    @property
    def reasoning_tokens(self) -> int:
        """Completion tokens that were thought and not said."""
        return self._parser.thought_ids

    @property
    def accepted_prediction_tokens(self) -> int:
        """How many ids of the text the prediction had, in the same order; what else was said may lie between."""
        return count_kept(self._text_ids, self._prediction)

    @property
    def rejected_prediction_tokens(self) -> int:
        """How many it had that are not among them."""
        return len(self._prediction) - self.accepted_prediction_tokens

    def take(self, block: BlockSealed | PrefixStable) -> ChannelOutput:
        """What may leave now."""
        self._ids += block.ids
        output = self._parser.feed(block.ids)
        self._text_ids += output.text_ids
        self._calls += len(output.calls)
        self._usage, self.stopped = block.usage, self._parser.stopped
        if self.stopped:
            self._usage = dataclasses.replace(block.usage, completion_tokens=self._counted + output.ids_read)
        self._counted = self._usage.completion_tokens
        labels = self._ranked(block.labels) if isinstance(block, BlockSealed) else ()
        return dataclasses.replace(output, labels=labels)

    def _ranked(self, logprobs: Sequence[float]) -> tuple[tuple[str, float], ...]:
        """Labels and their log-probabilities, the likeliest first."""
        texts = [layouts[0] for layouts in self._layouts[: len(logprobs)]]
        return tuple(sorted(zip(texts, logprobs, strict=True), key=lambda label: -label[1]))

    def close(self, finished: Finished | None) -> ChannelOutput:
        """What was held back; None when a stop string ended the answer before the engine did."""
        if finished is not None and not self.stopped:
            self._usage = finished.usage
        output = self._parser.flush()
        self._calls += len(output.calls)
        return output

    @property
    def usage(self) -> Usage | None:
        """The same, or None before anything happened."""
        return together(self._spent, self._usage) if self._spent and self._usage else self._usage or self._spent

    def account(self) -> Usage:
        """What the answer has cost so far; there is an account from the first block or the end on."""
        usage = self.usage
        assert usage is not None, "asked before anything happened"
        return usage

    def finish_reason(self, finished: Finished | None) -> str:
        """OpenAI's word, after `close`: a limit of tokens or of time is `length`; an answer that ended by itself has
        called tools, or it is `stop`, as it is behind a stop string."""
        if finished is not None and finished.reason is not FinishReason.STOP:
            return "length"
        return "tool_calls" if self._calls else "stop"

    def sketch(self, ids: Sequence[int]) -> str:
        """The text of ids of which nothing is final."""
        return b"".join(map(self._tokenizer.token_bytes, ids)).decode(errors="replace")
