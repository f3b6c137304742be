"""Text completions in OpenAI's shape: the text that was written, and around it, if asked for, the text it was given."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffusion_worker.text.channels import ChannelOutput
from diffusion_worker.web.response_parts import ResponseMetadata, Writer


class TextWriter(Writer):
    """`before` and `behind` are returned around the answer, as they are."""

    PREFIX = "cmpl-"
    WHOLE = CHUNK = "text_completion"

    def __init__(
        self, label: ResponseMetadata, *, include_usage: bool = False, before: str = "", behind: str = ""
    ) -> None:
        super().__init__(label, include_usage=include_usage)
        self._before, self._behind = before, behind

    def opening(self) -> bytes:
        """The text before the answer."""
        return self._chunk({"text": self._before}) if self._before else b""

    def part(self, output: ChannelOutput) -> bytes:
        """The text that is final."""
        return self._chunk({"text": output.text}) if output.text else b""

    def finish(self, reason: str, diffusion: Mapping[str, Any]) -> bytes:
        """The text behind the answer."""
        return self._chunk({"text": self._behind}, reason, diffusion=diffusion)

    def _whole(self, output: Sequence[ChannelOutput]) -> dict[str, Any]:
        return {"text": self._before + "".join(part.text for part in output) + self._behind}
