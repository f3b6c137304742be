"""The page docs/reference/parameters.md: what happens to each request parameter at each kind of target."""

import json
from collections.abc import Iterator
from typing import Final

import orjson

from diffusion_worker.types.requests import DecodingMode
from diffusion_worker.web.requests.api_support import capabilities_of
from docs.tables import table
from gateway.enums import Kind
from gateway.parameters import MAX_N, PARAMETERS, treatment
from gateway.routing.engine_profiles import DEFAULT_IGNORE, ENGINES, with_fields
from gateway.types import Capabilities
from gateway.upstreams.fan_out import MAX_AT_ONCE
from gateway.upstreams.health import read_models

_TREATMENTS: Final = (
    ("passed", "Passed on unchanged, whatever its value; the worker honours it."),
    ("with effect", "Passed on unchanged if it has an effect, and left out otherwise: the server decides."),
    ("left out", "Never passed on: a hint, a label or an identity that changes nothing in the answer."),
    (
        "ignored",
        "Left out by default; the response names it in `x-twolane-ignored`. An `ignore` of your own replaces this.",
    ),
    (
        "n calls",
        "One call per choice: up to {most}, {at_once} at a time, seeds `seed`, `seed + 1` and so on; usage adds up.",
    ),
    (
        "refused",
        "Left out if it has no effect; otherwise the target is skipped as `unsupported`, unless its `ignore` lists it.",
    ),
)


def parameters() -> Iterator[str]:
    """The page's lines."""
    targets = parameter_targets()
    yield from ("# Request parameters", "", _INTRODUCTION, "")
    yield from table(
        ("word", "meaning"), ((f"*{w}*", text.format(most=MAX_N, at_once=MAX_AT_ONCE)) for w, text in _TREATMENTS)
    )
    yield from ("## By kind of target and engine", "")
    rows = (
        (
            f"`{name}`",
            "any" if each.is_hint else ", ".join(f"`{json.dumps(value)}`" for value in (*each.off, *each.unthinking)),
            *(str(treatment(name, capabilities, ignore)) for capabilities, ignore in targets.values()),
        )
        for name, each in PARAMETERS.items()
    )
    unknown = (
        "any other",
        "",
        *("with effect" if capabilities.is_open else "refused" for capabilities, _ in targets.values()),
    )
    yield from table(("parameter", "no effect", *targets), (*rows, unknown))
    yield _NOTES


def parameter_targets() -> dict[str, tuple[Capabilities, frozenset[str]]]:
    """The columns of the parameter table: capabilities, and the parameters ignored by default."""
    published = {"capabilities": dict(capabilities_of(DecodingMode.DIFFUSION))}
    worker = read_models(orjson.dumps({"data": [{"id": "m", "twolane": published}]}))["m"]
    engines = {name: (ENGINES[name], DEFAULT_IGNORE.get(name, frozenset())) for name in ENGINES}
    litellm = with_fields(ENGINES["openai"], Kind.LITELLM, "openai")
    return {"worker": (worker, frozenset()), **engines, "litellm": (litellm, frozenset())}


_INTRODUCTION: Final = """\
The columns are `kind: worker`, the engines of `kind: openai`, and `kind: litellm` with `engine: openai`. A target
with a list of `capabilities` behaves like `engine: openai`, except that a parameter with a capability of its own
(such as `stop` or `logprobs`) is refused if the list lacks it; penalties and `reasoning_effort` are passed *with
effect* instead. `null` never has an effect, nor has an empty list or object of an unknown parameter."""
_NOTES: Final = """\
`messages[].name` is the name of a message's author. `cache_control` is one of a message, of a part of its content, or
of a tool.

A request for no more thinking than a model does by default (`reasoning_effort` up to `medium`, `enable_thinking:
false`, `think: false`, `thinking: {"type": "disabled"}`, the same in `chat_template_kwargs`) has no effect on a model
that does not think, so no target is skipped for it. What another model does by default only its server knows:
wherever the server decides (*passed* or *with effect*), such a request is passed on, unless the target's `ignore`
lists the parameter. OpenAI's own servers reject all of them except `reasoning_effort`; a target there that serves
clients of other engines needs `ignore: [enable_thinking, thinking, think, chat_template_kwargs]`. A worker whose chat
template can think takes `reasoning_effort`. `kind: litellm` also leaves out hints and values without effect that
the provider does not support. Fields that describe the format of the answer, tools and streams are not parameters:
they need a capability, which no `ignore` replaces.

In a target of the policy, `ignore: [temperature, logit_bias]` leaves out these parameters whenever they have an
effect; the response names them in `x-twolane-ignored`, the decision log in `ignored` of the attempt, and
`twolane_ignored_parameters_total` counts them. `takes: [cache_control]` passes on parameters that the server takes
beyond its engine. Both may name parameters that are not in the table.

## Sampling in the worker

In autoregressive and verified mode, sampling follows vLLM's definitions token by token: `logit_bias`, then the
repetition, frequency and presence penalties, the temperature, `min_p`, `top_k` and `top_p`. The repetition penalty
counts prompt and output, the others the output. Without a `temperature`, these modes take the most likely token.

A denoising step applies the same formulas and masks at every position of a canvas. Penalties count the prompt, the
output of earlier canvases, and the tokens that were accepted so far *before* the position on the same canvas
([decision 38](../decisions/0038-penalties-count-what-stands-before.md)). End and padding tokens are not counted.
Temperature, `top_k`, `top_p` and `min_p` apply to the tokens that a step proposes, after its own annealing, and not
to the measure of certainty that decides which proposals are accepted. A constrained answer is truncated among the
tokens that the constraint allows. When an answer is chosen among labels (`logprobs` with a choice), none of these
apply.

`top_k: 1` and `top_p: 0` take the most likely token. `top_p` and `top_k` keep all tokens that are as likely as the
last one kept. `logit_bias` maps token ids of the worker's tokenizer. `confidence` and `logprobs` are those of the
model, before all of this. A request without these parameters, or with values that have no effect, gets the same
tokens for the same seed as one that does not mention them, at no extra cost.
"""
