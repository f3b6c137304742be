"""Names that begin with gen_ai are those of release 0.1.0 of OpenTelemetry's registry for generative models, which has
replaced many earlier ones. Names, types, units and attributes here are the registry's."""

import pytest
from prometheus_client import CollectorRegistry

from diffusion_worker.telemetry import metrics as worker_metrics
from diffusion_worker.telemetry import semantic_conventions as of_worker
from diffusion_worker.telemetry.metrics import Meters
from gateway.enums import Kind
from gateway.telemetry import metric_names
from gateway.telemetry import semantic_conventions as of_gateway
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.semantic_conventions import provider_of
from gateway.types import Target

CALLED = {"gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"}
METRICS = {  # type, unit, and the attributes that an aggregated series can have
    "gen_ai.client.inference.duration": ("histogram", "s", CALLED | {"error.type"}),
    "gen_ai.client.inference.time_to_first_chunk": ("histogram", "s", CALLED),
    "gen_ai.client.inference.usage.input_tokens": ("counter", "{token}", CALLED | {"gen_ai.token.modality"}),
    "gen_ai.client.inference.usage.output_tokens": ("counter", "{token}", CALLED | {"gen_ai.token.modality"}),
    "gen_ai.client.embeddings.duration": ("histogram", "s", CALLED | {"error.type"}),
    "gen_ai.client.embeddings.operation.input_tokens": ("histogram", "{token}", CALLED),
    "gen_ai.server.request.duration": ("histogram", "s", CALLED | {"error.type"}),
    "gen_ai.server.time_per_output_token": ("histogram", "s", CALLED),
    "gen_ai.server.time_to_first_token": ("histogram", "s", CALLED),
}
ATTRIBUTES = {
    *CALLED,
    *("gen_ai.request.stream", "gen_ai.request.max_tokens", "gen_ai.response.time_to_first_chunk"),
    *("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"),
}


def exposed(name: str) -> str:
    """The name of a metric in Prometheus' text format, by OpenTelemetry's rules for it."""
    kind, unit, _ = METRICS[name]
    return name.replace(".", "_") + ("_seconds" if unit == "s" else "") + ("_total" if kind == "counter" else "")


def registered(registry: CollectorRegistry) -> dict[str, tuple[str, set[str]]]:
    """Type and labels of every metric whose name is a convention's."""
    found = {}
    for family in registry._names_to_collectors.values():
        name = getattr(family, "_name", "")
        if name.startswith("gen_ai_"):
            is_counter = family._type == "counter"
            found[name + "_total" * is_counter] = (family._type, set(family._labelnames))
    return found


@pytest.mark.parametrize("module", [of_gateway, of_worker])
def test_attributes_of_spans_are_in_the_registry(module: object) -> None:
    used = {value for value in vars(module).values() if isinstance(value, str) and value.startswith("gen_ai.")}
    assert used
    assert used <= ATTRIBUTES


@pytest.mark.parametrize("module", [metric_names, worker_metrics])
def test_metrics_are_in_the_registry(module: object) -> None:
    used = {value for value in vars(module).values() if isinstance(value, str) and value.startswith("gen_ai_")}
    assert used
    assert used <= {exposed(name) for name in METRICS}


def test_the_gateways_metrics_have_the_registrys_types_and_attributes() -> None:
    found = registered(Metrics().registry)
    wanted = {
        exposed(name): (kind, {each.replace(".", "_") for each in attributes})
        for name, (kind, _, attributes) in METRICS.items()
        if name.startswith("gen_ai.client.")
    }
    assert found == wanted


def test_the_workers_metrics_have_the_registrys_types_and_no_other_attributes() -> None:
    found = registered(Meters("model").registry)
    for name, (kind, _, attributes) in METRICS.items():
        if name.startswith("gen_ai.server."):
            its_kind, labels = found[exposed(name)]
            assert its_kind == kind
            assert labels <= {each.replace(".", "_") for each in attributes}


@pytest.mark.parametrize(
    ("kind", "model", "engine", "provider"),
    [
        (Kind.WORKER, "diffusion", None, "twolane"),
        (Kind.OPENAI, "gpt", "openai", "openai"),
        (Kind.OPENAI, "m", "vllm", "vllm"),
        (Kind.OPENAI, "m", None, "other"),
        (Kind.LITELLM, "anthropic/big", None, "anthropic"),
        (Kind.LITELLM, "bedrock/anthropic.big", None, "aws.bedrock"),
        (Kind.LITELLM, "vertex_ai/gemini", "openai", "gcp.vertex_ai"),
    ],
)
def test_the_provider_of_a_target(kind: Kind, model: str, engine: str | None, provider: str) -> None:
    target = Target(name="t", kind=kind, url="http://t", model=model, location="external", engine=engine)
    assert provider_of(target) == provider
