"""One line per key of the policy language: shown by editors (JSON Schema `description`) and in
docs/reference/policy.md.

Keys are paths as in error messages; `*` is a name that the author chooses, `[]` an item of a list.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_SLO: Final = {
    "": "Service-level objective of this lane; needs p95_ms, first_token_p95_ms or both.",
    "p95_ms": "95 % of responses complete within this many milliseconds.",
    "first_token_p95_ms": "95 % of streams deliver their first text within this many milliseconds.",
    "window_s": "Sliding window over which the objective is evaluated, in seconds.",
    "recover_ratio": "A probe counts as good within this fraction of the objective.",
    "probe_share": "Fraction of requests sent to an ejected lane as probes.",
    "probe_every_s": "At least one probe per this many seconds, whatever the traffic.",
    "base_ejection_s": "First ejection time in seconds; doubles with each relapse.",
    "max_ejection_s": "Upper limit of the ejection time, in seconds.",
}
_TIME: Final = {
    "": "Time windows in which the route applies; one of them must match.",
    "days": "Weekdays: mon to sun.",
    "zone": "IANA time zone; UTC if absent.",
    "from": "Start, HH:MM, inclusive.",
    "to": "End, HH:MM, exclusive; may be past midnight.",
}


def _below(path: str, keys: Mapping[str, str]) -> dict[str, str]:
    return {f"{path}.{key}" if key else path: text for key, text in keys.items()}


DESCRIPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "version": "Version of the policy language; 1.",
        "aliases": "Model names that are routed like `auto`; `*` represents any characters.",
        "classifier": "The task classifier.",
        "classifier.weights": "Weights file of `twolane classifier train`, relative to the policy file; followed when"
        " it changes. Default: the shipped weights.",
        "private_locations": "Locations that private requests may be sent to. Default: in_cluster.",
        "targets": "Named entries that can answer requests.",
        "targets.*": "A target; its name is also a model name that addresses it directly.",
        "targets.*.kind": "worker: a Twolane diffusion worker; openai: an OpenAI-compatible server; litellm: a provider"
        " through the litellm SDK.",
        "targets.*.url": "Base URL of the server, as for OpenAI's clients, or the full URL of its chat completions.",
        "targets.*.urls": "Base URLs of several endpoints that serve the same model.",
        "targets.*.resolve": "dns: every address behind the host name is an endpoint, refreshed every two seconds.",
        "targets.*.model": "Model name sent to the server.",
        "targets.*.decoding": "Decoding mode of a worker, instead of a suffix of `model`.",
        "targets.*.key_env": "Environment variable that holds the server's API key.",
        "targets.*.key_file": "File that holds the server's API key; followed when it changes.",
        "targets.*.headers": "Headers sent with every request to the server; values may use ${NAME}.",
        "targets.*.headers.*": "Value of this header.",
        "targets.*.retry_after_max_s": "Longest `Retry-After` of the server that is kept to, in seconds.",
        "targets.*.location": "Where the target runs: a label of your own, such as eu or on-prem. Without one, it gets"
        " no request that is private or limited to locations.",
        "targets.*.proxy": "Whether the target is called through the proxy that the environment names. Default: false"
        " in in_cluster and in the private locations, otherwise true.",
        "targets.*.engine": "Capability profile of a well-known engine.",
        "targets.*.capabilities": "Capabilities of the server, instead of an engine profile.",
        "targets.*.responses": "Whether the server has OpenAI's responses API, which is then used.",
        "targets.*.ignore": "Request parameters that are left out of requests to this target; responses name them.",
        "targets.*.takes": "Request parameters that the server takes beyond those of its engine or capabilities.",
        "targets.*.price": "What the target costs, for the decision log and daily budgets.",
        "targets.*.price.input_per_million": "US dollars per million prompt tokens.",
        "targets.*.price.output_per_million": "US dollars per million completion tokens.",
        "targets.*.max_in_flight": "Concurrent requests; beyond them the next target is tried, then requests wait in"
        " `queue`.",
        "targets.*.queue": "Requests that wait for the target while it is full and no other target is free.",
        "targets.*.queue.max_requests": "Waiting requests; 0 refuses at once. Default 64.",
        "targets.*.queue.max_wait_ms": "Longest wait in milliseconds, within the deadline. Default 1000.",
        "targets.*.idle_s": "Longest pause between two chunks of a stream, heartbeats included, in seconds; not before"
        " the first chunk, and not for answers that are not streamed.",
        "targets.*.context_length": "Tokens that the model takes, prompt and completion together; a request that"
        " another target found longer skips this one.",
        "targets.*.max_inputs": "Most inputs of one request for embeddings; a request with more skips this target.",
        "targets.*.dimensions": "Dimensions of its embeddings; a request for more skips this target.",
        "targets.*.min_confidence": "Answers of this target below this confidence, and blank ones, are not served: in"
        " requests that name the target, and in routes without a `min_confidence` for it.",
        "targets.*.low_confidence": "What a request that names the target receives below `min_confidence`: error (502"
        " `low_confidence`), or serve_surest: the answer, marked by `x-twolane-low-confidence`.",
        "targets.*.retry": "Retries at the same target after a connection fault or 5xx.",
        "targets.*.retry.times": "Retries per request.",
        "targets.*.retry.max_share": "Retry budget: retries as a fraction of requests sent to the target.",
        "targets.*.diffusion": "Default denoising parameters; a request's own values win.",
        "targets.*.diffusion.steps": "Maximum denoising steps per canvas.",
        "targets.*.diffusion.canvas_length": "Positions per canvas.",
        "targets.*.diffusion.entropy_bound": "Entropy that one step may accept, in nats.",
        "targets.*.diffusion.confidence_threshold": "Mean entropy below which denoising may stop, in nats.",
        "targets.*.diffusion.t_min": "Sampling temperature of the last step.",
        "targets.*.diffusion.t_max": "Sampling temperature of the first step.",
        "targets.*.diffusion.under_load": "Thresholds towards which those of requests without a seed move as the"
        " worker's queue grows.",
        "targets.*.diffusion.under_load.entropy_bound": "Entropy that one step may accept at full load, in nats.",
        "targets.*.diffusion.under_load.confidence_threshold": "Mean entropy below which denoising may stop at full"
        " load, in nats.",
        "targets.*.diffusion.under_load.stability": "Steps for which a canvas must not have changed at full load.",
        "targets.*.diffusion.anchor": "How strongly a canvas keeps to a given start text, 0 to 1.",
        **_below("targets.*.slo", _SLO),
        "routes": "Routes in order; the first whose `when` matches takes the request.",
        "routes[].name": "Name of the route in headers, logs and metrics.",
        "routes[].when": "Conditions, all of which must match; only the last route may omit them.",
        "routes[].when.task": "Tasks as classified or declared.",
        "routes[].when.confidence": "Classification confidence, for example `>= 0.6`.",
        "routes[].when.confidence_of": "Tasks whose probabilities `confidence` adds up; default: the classified task.",
        "routes[].when.model": "Requested model names; `*` represents any characters.",
        "routes[].when.key": "Names of API keys.",
        "routes[].when.stream": "Whether the request asks for a stream.",
        "routes[].when.schema": "Whether the request asks for structured output.",
        "routes[].when.tools": "Whether the request offers tools.",
        "routes[].when.images": "Whether the request contains images.",
        "routes[].when.private": "Whether the request is marked private.",
        "routes[].when.locations": "Requests that may be sent to none but these locations.",
        "routes[].when.prompt_chars": "Prompt length in characters, for example `> 8000`.",
        "routes[].when.header": "Request headers by name: a value, several values, or true for any value.",
        "routes[].when.header.*": "A header: a value, several values, or true for any value.",
        **_below("routes[].when.time", _TIME),
        **{f"routes[].when.time[].{key}": text for key, text in _TIME.items() if key},
        "routes[].use": "The first target, or several with weights.",
        "routes[].use.*": "Weight of this target.",
        "routes[].decoding": "Decoding mode of the workers in `use`, instead of their own.",
        "routes[].fall_back": "Targets to try next, in order.",
        "routes[].min_confidence": "Answers below this confidence, and blank ones, fall back; for the first target and"
        " every diffusion engine of the route, or by target. Default: those of the targets.",
        "routes[].min_confidence.*": "Minimum confidence of this target of the route.",
        "routes[].low_confidence": "Where no answer reaches `min_confidence`: error (502 `low_confidence`), or"
        " serve_surest: the answer with the highest confidence, marked by `x-twolane-low-confidence`.",
        "routes[].private": "true: every request of this route is private.",
        "routes[].locations": "Every request of this route stays at targets in these locations.",
        "routes[].deadline_ms": "Time limit, all attempts together, in milliseconds: for the first byte of a stream"
        " that is passed on as it comes, for the whole of any other answer.",
        "routes[].total_ms": "Time limit of a stream as a whole, in milliseconds; of any answer without a deadline.",
        "routes[].attempt_ms": "Time limit of one attempt while another target is left, in milliseconds.",
        **_below("routes[].slo", _SLO),
        "routes[].hedge": "Send the request to the next target too if the first is slow; the first good response wins.",
        "routes[].hedge.after_ms": "Delay before hedging, in milliseconds.",
        "routes[].hedge.after": "p95: hedge after the lane's own 95th percentile.",
        "routes[].hedge.max_share": "Hedge budget: hedged requests as a fraction of the lane's requests.",
        "routes[].shadow": "Mirror a fraction of requests to another target and compare the responses.",
        "routes[].shadow.target": "Target that receives the mirrored requests.",
        "routes[].shadow.share": "Fraction of requests to mirror, 0 to 1.",
        "routes[].validate": "Validation of responses against what the request asked for; none: no validation. Without"
        " it, whole responses are validated, and streams while they are forwarded.",
        "routes[].validate.schema": "request: against what the request asked for; none: no validation.",
        "routes[].validate.buffer": "full: send nothing before the response is validated; first_bytes: validate a first"
        " part, then stream; none: validate while streaming.",
        "routes[].validate.first_bytes": "Bytes to buffer with `buffer: first_bytes`.",
        "routes[].validate.repair": "syntax: close JSON that is unambiguously unclosed; none.",
        "routes[].validate.runaway": "Which streamed texts are cut when they run away (white space, digits, one token"
        " over and over): form: structured output and tool arguments; all: free text too; none.",
        "routes[].validate.send_error_to_fallback": "Tell the next target what was wrong with the previous response.",
        "limits": "Rate limits and daily budgets for API keys.",
        "limits[].keys": "Names of API keys; absent: each key without a limit of its own.",
        "limits[].requests_per_minute": "Requests per minute.",
        "limits[].tokens_per_minute": "Prompt and completion tokens per minute.",
        "limits[].max_in_flight": "Concurrent requests.",
        "limits[].tokens_per_day": "Prompt and completion tokens per day (UTC).",
        "limits[].dollars_per_day": "Cost per day (UTC) in US dollars.",
    }
)
