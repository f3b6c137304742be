"""Probabilities of labels and of tokens: which requests support them, and their form in OpenAI's `logprobs`.

In diffusion mode, `logprobs` has one entry for the complete answer: `token` is the text of the label, `top_logprobs`
lists the most likely labels, including the answer. In the other modes it has one entry per token of the text; tokens of
thoughts and of tool calls have lists of their own.
"""

from collections.abc import Sequence
from typing import Any, Final

from diffusion_worker.constraints.finite_answers import MAX_LABELS, label_texts
from diffusion_worker.text.token_logprobs import ChannelLogprobs, TextLogprobs, TokenText
from diffusion_worker.types.requests import DecodingMode
from diffusion_worker.web.error_body import Unsupported
from diffusion_worker.web.requests.chat_request import ChatRequest

Layouts = tuple[tuple[str, ...], ...]  # the equivalent texts of each label
MIN_LOGPROB: Final = -9999.0  # OpenAI's value for probability 0; JSON has no infinity


def layouts_for(request: ChatRequest, decoding_mode: DecodingMode) -> Layouts:
    """The labels to compute probabilities for; empty if `logprobs` is not requested, or means tokens. Raises
    Unsupported."""
    if request.top_logprobs is None or decoding_mode is not DecodingMode.DIFFUSION:
        return ()
    if request.tools.offered or request.prediction is not None or request.thinking:
        raise _refusal("is not supported with tools, thinking or a 'prediction'.")
    constraint = request.params.constraint
    layouts = label_texts(constraint) if constraint else None
    if layouts is None:
        raise _refusal(f"requires a choice or a JSON Schema of enums, with at most {MAX_LABELS} possible answers.")
    return layouts


def token_logprobs_body(tokens: ChannelLogprobs) -> dict[str, Any]:
    """OpenAI's `logprobs` object of these tokens, with lists for thoughts and tool calls if there are any."""
    others = {"reasoning_content": tokens.thought, "tool_calls": tokens.calls}
    return {
        "content": _token_entries(tokens.text),
        "refusal": None,
        **{name: _token_entries(listed) for name, listed in others.items() if listed},
    }


def _token_entries(tokens: Sequence[TextLogprobs]) -> list[dict[str, Any]]:
    return [
        {**_token_entry(each.token, each.logprob), "top_logprobs": [_token_entry(*other) for other in each.top]}
        for each in tokens
    ]


def _token_entry(token: TokenText, logprob: float | None) -> dict[str, Any]:
    """A token may be a part of a character: its `bytes` are exact."""
    assert logprob is not None, "every token of an answer is predicted"
    text = token.control or token.data.decode(errors="replace")
    return {"token": text, "logprob": max(logprob, MIN_LOGPROB), "bytes": list(token.data)}


def logprobs_body(labels: Sequence[tuple[str, float]], top: int) -> dict[str, Any]:
    """OpenAI's `logprobs` object; `labels` are sorted, the first one is the answer."""
    entry = {**_entry(*labels[0]), "top_logprobs": [_entry(*each) for each in labels[:top]]}
    return {"content": [entry], "refusal": None}


def _entry(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": max(logprob, MIN_LOGPROB), "bytes": list(text.encode())}


def _refusal(reason: str) -> Unsupported:
    return Unsupported(f"'logprobs' {reason}", param="logprobs")
