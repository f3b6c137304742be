"""The text dialect, POST /v1/completions: raw text goes on, or a gap between two texts is filled. No template, no
channels: what is written is text."""

import secrets

from diffusion_worker.text.channels import Wanted
from diffusion_worker.text.tokenizer import Tokenizer
from diffusion_worker.types.generation import NetFacts
from diffusion_worker.web.completion_response import TextWriter
from diffusion_worker.web.error_body import InvalidValue, Unsupported
from diffusion_worker.web.handler import Order
from diffusion_worker.web.requests.build_request import Given, ask_of
from diffusion_worker.web.requests.completion_request import CompletionRequest, Prompt, parse_completion
from diffusion_worker.web.response_builder import Transcript
from diffusion_worker.web.response_parts import new_label
from diffusion_worker.web.serving_state import Desk


def understand_completion(desk: Desk, body: bytes, deadline_ms: float | None) -> Order:
    """See `relay.Understand`."""
    request = parse_completion(body)
    wishes = request.wishes
    if wishes.constraint and request.suffix:
        raise Unsupported("'suffix' is not supported with a constrained answer.", param="suffix")
    reading = desk.reading_of(wishes.model)
    words, facts = desk.resident()
    given = Given(
        prompt_ids=_prompt_ids(request.prompt, words.tokenizer, facts),
        prompt_name="prompt",
        reading=reading,
        seed=secrets.randbits(63),
        deadline_ms=deadline_ms,
        suffix_ids=words.tokenizer.encode_plain(request.suffix),
    )
    ask = ask_of(wishes, given, facts)
    transcript = Transcript(words.tokenizer, Wanted(stops=wishes.stops, channels=False), ask.prompt_ids)
    before, behind = _echo(request, transcript)
    label = new_label(TextWriter, desk.id_of(reading))
    return Order(
        ask=ask,
        transcript=transcript,
        writer=TextWriter(label, include_usage=wishes.include_usage, before=before, behind=behind),
        is_stream=wishes.is_stream,
        include_usage=wishes.include_usage,
        constraint=wishes.constraint,
    )


def _prompt_ids(prompt: Prompt, tokenizer: Tokenizer, facts: NetFacts) -> tuple[int, ...]:
    """Text begins as the checkpoint wants text to begin; ids are taken as they are."""
    ids = (*tokenizer.opening, *tokenizer.encode_plain(prompt)) if isinstance(prompt, str) else prompt
    if not ids:
        raise InvalidValue("'prompt' must not be empty.", param="prompt")
    if not (min(ids) >= 0 and max(ids) < facts.vocab_size):
        raise InvalidValue(f"'prompt' must hold token ids from 0 to {facts.vocab_size - 1}.", param="prompt")
    return ids


def _echo(request: CompletionRequest, transcript: Transcript) -> tuple[str, str]:
    """What stands around the answer: the client's own text, never what tokens make of it."""
    if not request.is_echo:
        return "", ""
    prompt = request.prompt
    return prompt if isinstance(prompt, str) else transcript.sketch(prompt), request.suffix
