"""The text of one answer and its account, from the engine's events: pure, fed by whoever waits for them.

Knows no sockets and no JSON. `usage` speaks of what the client receives: ids behind a stop string are not counted.
"""

import dataclasses

from diffusion_worker.records import BlockSealed, Finished, FinishReason, Usage
from diffusion_worker.text.detokenize import Detokenizer
from diffusion_worker.text.tokenizer import Tokenizer


class Transcript:
    """Take every block, then close once. After `stopped` no further block is wanted."""

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...], prediction_ids: tuple[int, ...]) -> None:
        self._detokenizer = Detokenizer(tokenizer, stops)
        self._prediction = prediction_ids
        self._length = 0
        self._counted = 0  # completion tokens before the present block
        self._usage: Usage | None = None
        self.accepted_prediction_tokens = 0  # emitted ids that equal the prediction's at the same place
        self.stopped = False

    def take(self, block: BlockSealed) -> str:
        """The text that may leave now."""
        piece = self._detokenizer.feed(block.ids)
        self._compare(block.ids[: piece.ids_read])
        self._usage, self.stopped = block.usage, piece.stopped
        if piece.stopped:
            self._usage = dataclasses.replace(block.usage, completion_tokens=self._counted + piece.ids_read)
        self._counted = self._usage.completion_tokens
        return piece.text

    def close(self, finished: Finished | None) -> str:
        """What was held back; None when a stop string ended the answer before the engine did."""
        if finished is not None and not self.stopped:
            self._usage = finished.usage
        return self._detokenizer.flush().text

    def account(self) -> Usage:
        """What the answer has cost so far; there is an account from the first block or the end on."""
        assert self._usage is not None, "asked before anything happened"
        return self._usage

    def _compare(self, ids: tuple[int, ...]) -> None:
        expected = self._prediction[self._length : self._length + len(ids)]
        self.accepted_prediction_tokens += sum(mine == theirs for mine, theirs in zip(ids, expected, strict=False))
        self._length += len(ids)


def finish_reason(finished: Finished | None) -> str:
    """OpenAI's word: a stop string or an end token is `stop`, a limit of tokens or of time is `length`."""
    return "stop" if finished is None or finished.reason is FinishReason.STOP else "length"
