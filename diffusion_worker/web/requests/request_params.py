"""Parser of the request body and of the parameters that chat and text completions share."""

import dataclasses
from dataclasses import dataclass

from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.web.error_body import InvalidJson, InvalidType
from diffusion_worker.web.requests.fields import MAX_DEPTH, Fields, is_deeper
from diffusion_worker.web.requests.output_format import parse_constraint
from twolane.process import exact_json

MAX_STOPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Overrides of the denoising params, from the extension object `diffusion`; None: default of the checkpoint."""

    steps: int | None = None
    entropy_bound: float | None = None
    t_min: float | None = None
    t_max: float | None = None
    canvas_length: int | None = None

    def as_dict(self) -> dict[str, float]:
        """The values that are set, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestParams:
    """Validated parameters of a request, except for its prompt; the model id is resolved later."""

    model: str
    max_tokens: int | None = None
    seed: int | None = None
    temperature: float | None = None
    stops: tuple[str, ...] = ()
    is_stream: bool = False
    include_usage: bool = False
    include_drafts: bool = False
    overrides: Overrides = Overrides()
    anchor: float | None = None
    deadline_ms: float | None = None
    constraint: Constraint | None = None  # of the answer


def parse_body(body: bytes) -> Fields:
    """The JSON object of a body, no deeper than MAX_DEPTH. Raises InvalidJson."""
    try:
        value = exact_json.loads(body)
    except exact_json.JsonError as error:
        raise InvalidJson(f"The body is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise InvalidJson("The body must be a JSON object.")
    if is_deeper(value, MAX_DEPTH):
        raise InvalidJson(f"The body is nested deeper than {MAX_DEPTH} levels.")
    return Fields(value)


def parse_request_params(fields: Fields) -> RequestParams:
    """Parse the shared fields of a body. Raises InvalidRequest for the first error."""
    is_stream = fields.boolean("stream") or False
    include_usage, include_drafts = _parse_stream_options(fields, is_stream)
    diffusion = _parse_diffusion(fields)
    return RequestParams(
        model=fields.nonempty("model"),
        max_tokens=_parse_max_tokens(fields),
        seed=fields.integer("seed", -(2**63), 2**63 - 1),
        temperature=fields.number("temperature", 0.0, 2.0),
        stops=_parse_stops(fields),
        is_stream=is_stream,
        include_usage=include_usage,
        include_drafts=include_drafts,
        overrides=_parse_overrides(diffusion),
        anchor=diffusion.number("anchor", 0.0, 1.0),
        deadline_ms=diffusion.number("deadline_ms", 0.0, 1e9),
        constraint=parse_constraint(fields),
    )


def _parse_max_tokens(fields: Fields) -> int | None:
    older = fields.integer("max_tokens", 1, 2**31 - 1)
    newer = fields.integer("max_completion_tokens", 1, 2**31 - 1)
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
    diffusion.allow_only((*(field.name for field in dataclasses.fields(Overrides)), "anchor", "deadline_ms"))
    return diffusion


def _parse_overrides(fields: Fields) -> Overrides:
    return Overrides(
        steps=fields.integer("steps", 1, 4096),
        entropy_bound=fields.number("entropy_bound", 0.0, 1e9),
        t_min=fields.number("t_min", 0.001, 100.0),
        t_max=fields.number("t_max", 0.001, 100.0),
        canvas_length=fields.integer("canvas_length", 1, 4096),
    )
