"""Chat answers in OpenAI's shape: what is said, thought and called, whole or in the chunks of a stream."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffusion_worker.text.channels import ChannelOutput
from diffusion_worker.text.tool_calls import ToolCall
from diffusion_worker.web.label_logprobs import logprobs_body
from diffusion_worker.web.response_parts import ResponseMetadata, Writer


class ChatWriter(Writer):
    """Thought and calls are there only if there were any; calls are numbered through."""

    PREFIX = "chatcmpl-"
    WHOLE = "chat.completion"
    CHUNK = "chat.completion.chunk"

    def __init__(self, label: ResponseMetadata, *, include_usage: bool = False, top_logprobs: int = 0) -> None:
        super().__init__(label, include_usage=include_usage)
        self._calls = 0  # sent
        self._top_logprobs = top_logprobs

    def opening(self) -> bytes:
        """The role."""
        return self._chunk({"delta": {"role": "assistant", "content": ""}})

    def part(self, output: ChannelOutput) -> bytes:
        """Thought, text, and whole calls, each in an event of its own."""
        deltas: list[dict[str, Any]] = []
        if output.thought:
            deltas.append({"reasoning_content": output.thought})
        if output.text:
            deltas.append({"content": output.text})
        for call in output.calls:
            body = {"index": self._calls, **self._call_body(self._calls, call)}
            deltas.append({"tool_calls": [body]})
            self._calls += 1
        return b"".join(self._chunk({"delta": delta, **self._logprobs([output])}) for delta in deltas)

    def finish(self, reason: str, diffusion: Mapping[str, Any]) -> bytes:
        """Nothing more is said."""
        return self._chunk({"delta": {}}, reason, diffusion=diffusion)

    def _whole(self, output: Sequence[ChannelOutput]) -> dict[str, Any]:
        """A message that only calls has a content of null."""
        text, thought = "".join(part.text for part in output), "".join(part.thought for part in output)
        calls = [call for part in output for call in part.calls]
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = [self._call_body(number, call) for number, call in enumerate(calls)]
        return {"message": message, **self._logprobs(output)}

    def _logprobs(self, output: Sequence[ChannelOutput]) -> dict[str, Any]:
        """Beside the answer, where labels were weighed for it."""
        labels = next((part.labels for part in output if part.labels), ())
        return {"logprobs": logprobs_body(labels, self._top_logprobs)} if labels else {}

    def _call_body(self, number: int, call: ToolCall) -> dict[str, Any]:
        """One call of an answer; its id is the answer's, numbered."""
        return {
            "id": f"call_{self._metadata.id.removeprefix(self.PREFIX)}_{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
