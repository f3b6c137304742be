"""Parser of the request body and of the parameters that chat and text completions share."""

import dataclasses
import re
from dataclasses import dataclass

from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.types.requests import MAX_REPETITION, MIN_REPETITION, Penalties, Truncation
from diffusion_worker.web.error_body import InvalidJson, InvalidType, InvalidValue
from diffusion_worker.web.requests.fields import Fields
from diffusion_worker.web.requests.output_format import parse_constraint
from twolane.process.http.json_body import JsonBodyError, read_json

MAX_STOPS = 32  # editors send one for each marker of every family of code models
MAX_VALUES = 500_000  # of the whole body: a prompt may consist of token ids
MAX_BIASES = 1024
GREEDY_BELOW = 1e-5  # temperatures, as in vLLM: logits divided by smaller ones would overflow


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Overrides of the denoising params, from the extension object `diffusion`; None: default of the checkpoint."""

    steps: int | None = None
    entropy_bound: float | None = None
    confidence_threshold: float | None = None
    t_min: float | None = None
    t_max: float | None = None
    canvas_length: int | None = None

    def as_dict(self) -> dict[str, float]:
        """The values that are set, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderLoad:
    """Thresholds that hold at full load, from `diffusion.under_load`; None: the threshold does not move."""

    entropy_bound: float | None = None
    confidence_threshold: float | None = None
    stability: int | None = None

    def as_dict(self) -> dict[str, float]:
        """The values that are set, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestParams:
    """Validated parameters of a request, except for its prompt; the model id is resolved later."""

    model: str
    max_tokens: int | None = None
    seed: int | None = None
    temperature: float | None = None  # 0 where the truncation leaves the most likely token only
    truncation: Truncation | None = None
    penalties: Penalties | None = None
    stops: tuple[str, ...] = ()
    is_stream: bool = False
    include_usage: bool = False
    include_drafts: bool = False
    overrides: Overrides = Overrides()
    under_load: UnderLoad | None = None
    anchor: float | None = None
    deadline_ms: float | None = None
    constraint: Constraint | None = None  # of the answer


def parse_body(body: bytes) -> Fields:
    """The JSON object of a body. Raises InvalidJson; also for a repeated key, which it names."""
    try:
        _, value = read_json(body, max_values=MAX_VALUES)
    except JsonBodyError as error:
        raise InvalidJson(str(error), param=error.key) from None
    if not isinstance(value, dict):
        raise InvalidJson("The body must be a JSON object.")
    return Fields(value)


def parse_request_params(fields: Fields, *, min_tokens: int = 1) -> RequestParams:
    """Parse the shared fields of a body. `min_tokens`: least number of tokens to ask for. Raises InvalidRequest for the
    first error."""
    is_stream = fields.boolean("stream") or False
    include_usage, include_drafts = _parse_stream_options(fields, is_stream)
    diffusion = _parse_diffusion(fields)
    temperature, truncation = _parse_sampling(fields)
    return RequestParams(
        model=fields.nonempty("model"),
        max_tokens=_parse_max_tokens(fields, min_tokens),
        seed=fields.integer("seed", -(2**63), 2**63 - 1),
        temperature=temperature,
        truncation=truncation,
        penalties=_parse_penalties(fields),
        stops=_parse_stops(fields),
        is_stream=is_stream,
        include_usage=include_usage,
        include_drafts=include_drafts,
        overrides=_parse_overrides(diffusion),
        under_load=_parse_under_load(diffusion.object("under_load")),
        anchor=diffusion.number("anchor", 0.0, 1.0),
        deadline_ms=diffusion.number("deadline_ms", 0.0, 1e9),
        constraint=parse_constraint(fields),
    )


def _parse_sampling(fields: Fields) -> tuple[float | None, Truncation | None]:
    """(temperature, truncation). Values without effect are None; vLLM also writes `top_k: -1` for all tokens."""
    temperature = fields.number("temperature", 0.0, 2.0)
    if temperature is not None and temperature < GREEDY_BELOW:
        temperature = 0.0
    truncation = Truncation(
        top_k=max(0, fields.integer("top_k", -1, 2**31 - 1) or 0),
        top_p=_number(fields, "top_p", (0.0, 1.0), default=1.0),
        min_p=_number(fields, "min_p", (0.0, 1.0), default=0.0),
    )
    if truncation.top_k == 1 or truncation.top_p == 0.0:
        return 0.0, None
    return temperature, None if truncation == Truncation() else truncation


def _parse_penalties(fields: Fields) -> Penalties | None:
    """None if they have no effect."""
    penalties = Penalties(
        presence=_number(fields, "presence_penalty", (-2.0, 2.0), default=0.0),
        frequency=_number(fields, "frequency_penalty", (-2.0, 2.0), default=0.0),
        repetition=_number(fields, "repetition_penalty", (MIN_REPETITION, MAX_REPETITION), default=1.0),
        logit_bias=_parse_logit_bias(fields.object("logit_bias")),
    )
    return None if penalties == Penalties() else penalties


def _parse_logit_bias(fields: Fields | None) -> tuple[tuple[int, float], ...]:
    """(token, bias) pairs; token ids beyond the vocabulary are refused later."""
    if fields is None:
        return ()
    if len(fields.values) > MAX_BIASES:
        raise InvalidValue(f"'logit_bias' must not contain more than {MAX_BIASES} tokens.", param="logit_bias")
    for name in fields.values:
        if not re.fullmatch("[0-9]{1,9}", name):
            raise InvalidValue(f"'logit_bias' must map token ids to numbers; {name!r} is no id.", param="logit_bias")
    biases = {int(name): _number(fields, name, (-100.0, 100.0), default=0.0) for name in fields.values}
    return tuple((token, bias) for token, bias in sorted(biases.items()) if bias)


def _number(fields: Fields, name: str, bounds: tuple[float, float], *, default: float) -> float:
    value = fields.number(name, *bounds)
    return default if value is None else value


def _parse_max_tokens(fields: Fields, least: int) -> int | None:
    older = fields.integer("max_tokens", least, 2**31 - 1)
    newer = fields.integer("max_completion_tokens", least, 2**31 - 1)
    if older is not None and newer is not None and older != newer:
        raise fields.invalid("max_tokens", "contradicts 'max_completion_tokens'.")
    return older if newer is None else newer


def _parse_stops(fields: Fields) -> tuple[str, ...]:
    value = fields.raw("stop")
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise InvalidType("'stop' must be a string or an array of strings.", param="stop")
    if len(stops) > MAX_STOPS:
        raise fields.invalid("stop", f"must not contain more than {MAX_STOPS} strings.")
    if "" in stops:
        raise fields.invalid("stop", "must not contain an empty string.")
    return tuple(stops)


def _parse_stream_options(fields: Fields, is_stream: bool) -> tuple[bool, bool]:
    """(include_usage, include_drafts)."""
    options = fields.object("stream_options")
    if options is None:
        return False, False
    if not is_stream:
        raise fields.invalid("stream_options", "is only allowed when 'stream' is true.")
    options.allow_only(("include_usage", "include_drafts", "include_obfuscation"))
    if options.boolean("include_obfuscation"):
        raise options.refuse("include_obfuscation", "is not supported by this model.")
    return options.boolean("include_usage") or False, options.boolean("include_drafts") or False


def _parse_diffusion(fields: Fields) -> Fields:
    """The extension object; ranges that depend on the checkpoint are checked in `build_request`."""
    diffusion = fields.object("diffusion") or Fields({}, "diffusion")
    others = ("anchor", "deadline_ms", "under_load")
    diffusion.allow_only((*(field.name for field in dataclasses.fields(Overrides)), *others))
    return diffusion


def _parse_under_load(fields: Fields | None) -> UnderLoad | None:
    if fields is None:
        return None
    fields.allow_only([field.name for field in dataclasses.fields(UnderLoad)])
    return UnderLoad(
        entropy_bound=fields.number("entropy_bound", 0.0, 1e9),
        confidence_threshold=fields.number("confidence_threshold", 0.0, 1e9),
        stability=fields.integer("stability", 0, 64),
    )


def _parse_overrides(fields: Fields) -> Overrides:
    return Overrides(
        steps=fields.integer("steps", 1, 4096),
        entropy_bound=fields.number("entropy_bound", 0.0, 1e9),
        confidence_threshold=fields.number("confidence_threshold", 0.0, 1e9),
        t_min=fields.number("t_min", 0.001, 100.0),
        t_max=fields.number("t_max", 0.001, 100.0),
        canvas_length=fields.integer("canvas_length", 1, 4096),
    )
