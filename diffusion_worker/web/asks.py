"""A parsed request turned into the engine's Ask: the model's own numbers, the reading's limits, room in the context.

Knows no JSON, no sockets, no engine and no torch; randomness and ids are arguments.
"""

import dataclasses
from dataclasses import dataclass

from diffusion_worker.errors import OutOfRange, PromptTooLong
from diffusion_worker.records import Ask, NetFacts, Reading, Recipe
from diffusion_worker.web.openai import ChatRequest, Overrides
from diffusion_worker.web.problems import Unsupported

DEFAULT_CANVASES = 4  # an answer without max_tokens may fill this many canvases, if the context has room for them


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a request does not say itself: its text in ids, how it is read, a seed, the deadline in its header."""

    prompt_ids: tuple[int, ...]
    prediction_ids: tuple[int, ...]
    reading: Reading
    seed: int  # used when the request names none
    deadline_ms: float | None


def ask_of(request: ChatRequest, given: Given, facts: NetFacts) -> Ask:
    """The ask for the engine. Of two deadlines the smaller holds; without max_tokens an answer may fill four canvases,
    or what the context has left. Raises PromptTooLong, OutOfRange, Unsupported."""
    _refuse_for_reading(request, given.reading)
    recipe = _recipe(request.overrides, facts.recipe)
    deadlines_ms = [ms for ms in (request.deadline_ms, given.deadline_ms) if ms is not None]
    return Ask(
        prompt_ids=given.prompt_ids,
        max_tokens=_room(request.max_tokens, len(given.prompt_ids), recipe, facts),
        seed=given.seed if request.seed is None else request.seed,
        recipe=recipe,
        reading=given.reading,
        temperature=request.temperature,
        start_ids=given.prediction_ids,
        deadline_s=min(deadlines_ms) / 1000 if deadlines_ms else None,
    )


def _refuse_for_reading(request: ChatRequest, reading: Reading) -> None:
    """Left to right there is no canvas: nothing to warm, no steps to count."""
    if reading is Reading.DIFFUSION:
        return
    names = [f"diffusion.{name}" for name in request.overrides.given()]
    for name in (["prediction"] if request.prediction is not None else []) + names:
        raise Unsupported(f"'{name}' is not supported when the weights are read left to right.", param=name)


def _recipe(overrides: Overrides, own: Recipe) -> Recipe:
    try:
        return dataclasses.replace(own, **overrides.given())  # type: ignore[arg-type]
    except OutOfRange as error:
        raise OutOfRange(f"'diffusion.{error.param}': {error.message}", param=f"diffusion.{error.param}") from error


def _room(wanted: int | None, prompt: int, recipe: Recipe, facts: NetFacts) -> int:
    left = facts.max_context - prompt
    if left < 1 or (wanted or 0) > left:
        asked = f"{wanted} for the answer" if wanted else "room for an answer"
        raise PromptTooLong(
            f"The context holds {facts.max_context} tokens; the messages take {prompt}, you asked for {asked}.",
            param="messages" if left < 1 else "max_tokens",
        )
    return wanted or min(left, DEFAULT_CANVASES * recipe.canvas_length)
