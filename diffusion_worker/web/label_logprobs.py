"""Label probabilities on the wire: which requests can have them, and how OpenAI's `logprobs` tells them.

One entry stands for the whole answer: its `token` is the text of a label, `top_logprobs` are the likeliest labels, the
answer among them.
"""

from collections.abc import Sequence
from typing import Any, Final

from diffusion_worker.constraints.finite_answers import MAX_LABELS, label_texts
from diffusion_worker.types.requests import DecodingMode
from diffusion_worker.web.error_body import Unsupported
from diffusion_worker.web.requests.chat_request import ChatRequest

Layouts = tuple[tuple[str, ...], ...]  # of each label the texts that mean it
_LEAST: Final = -9999.0  # OpenAI's word for what is never said; JSON has no infinity


def layouts_for(request: ChatRequest, decoding_mode: DecodingMode) -> Layouts:
    """The labels whose probabilities are asked for; empty where nobody asks. Raises Unsupported where they cannot be
    had."""
    if request.top_logprobs is None:
        return ()
    if decoding_mode is not DecodingMode.DIFFUSION:
        raise _refusal("is not supported when the weights are read left to right.")
    if request.tools.offered or request.prediction is not None or request.thinking:
        raise _refusal("is not supported with tools, thinking or a 'prediction'.")
    constraint = request.params.constraint
    layouts = label_texts(constraint) if constraint else None
    if layouts is None:
        raise _refusal(f"needs an answer out of at most {MAX_LABELS}: a choice, or a JSON Schema of nothing but enums.")
    return layouts


def logprobs_body(labels: Sequence[tuple[str, float]], top: int) -> dict[str, Any]:
    """OpenAI's object for an answer that is the first of these labels, the likeliest first."""
    entry = {**_entry(*labels[0]), "top_logprobs": [_entry(*each) for each in labels[:top]]}
    return {"content": [entry], "refusal": None}


def _entry(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": max(logprob, _LEAST), "bytes": list(text.encode())}


def _refusal(reason: str) -> Unsupported:
    return Unsupported(f"'logprobs' {reason}", param="logprobs")
