"""The worker's metrics: names, help texts, and the mapping from observations to Prometheus metrics.

Each Meters has its own registry, so that several workers can share a process. Label values come from closed sets.
"""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from diffusion_worker.types.observations import (
    BlockObserved,
    BlockStop,
    ConstraintObserved,
    ConstraintWork,
    DraftObserved,
    Observation,
    Outcome,
    PreemptionObserved,
    PrefixObserved,
    RefusalObserved,
    SequenceObserved,
    StartObserved,
    StartPhase,
    StepObserved,
    WaitObserved,
)
from diffusion_worker.types.status import EngineStatus, Residency

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

# Names of the OpenTelemetry semantic conventions for generative AI servers.
REQUEST_DURATION: Final = "gen_ai_server_request_duration_seconds"
TIME_TO_FIRST_TOKEN: Final = "gen_ai_server_time_to_first_token_seconds"  # noqa: S105 - a metric
TIME_PER_OUTPUT_TOKEN: Final = "gen_ai_server_time_per_output_token_seconds"  # noqa: S105 - a metric
# Names without a convention.
RUNNING: Final = "twolane_worker_running"
WAITING: Final = "twolane_worker_waiting"
PREDICTED_WAIT: Final = "twolane_worker_predicted_wait_seconds"
STEP: Final = "twolane_worker_step_seconds"
ROWS_PER_STEP: Final = "twolane_worker_rows_per_step"
DENOISING_STEPS: Final = "twolane_worker_denoising_steps"
TOKENS_PER_FORWARD: Final = "twolane_worker_tokens_per_forward"
MEAN_ENTROPY: Final = "twolane_worker_mean_entropy"
SEALED_BLOCKS: Final = "twolane_worker_sealed_blocks_total"
CANCELLED: Final = "twolane_worker_cancelled_total"
REFUSED: Final = "twolane_worker_refused_total"
STATE: Final = "twolane_worker_state"
KV_BYTES: Final = "twolane_worker_kv_bytes"
MEMORY_BYTES: Final = "twolane_worker_memory_bytes"
DRAFTED_TOKENS: Final = "twolane_worker_drafted_tokens_total"
ACCEPTED_TOKENS: Final = "twolane_worker_accepted_draft_tokens_total"
PREFIX_HITS: Final = "twolane_worker_prefix_hits_total"
PREFIX_TOKENS: Final = "twolane_worker_prefix_tokens_total"
PREEMPTIONS: Final = "twolane_worker_preemptions_total"
WAIT_RATIO: Final = "twolane_worker_queue_wait_prediction_ratio"
PRESSURE: Final = "twolane_worker_memory_pressure_level"
RETAINED: Final = "twolane_worker_retained_contexts"
BYTES_IN_FLIGHT: Final = "twolane_worker_bytes_in_flight"
SEQUENCES: Final = "twolane_worker_sequences_total"
TOKENS: Final = "twolane_worker_tokens_total"
PHASE: Final = "twolane_worker_phase_seconds"
CONSTRAINT: Final = "twolane_worker_constraint_seconds"
MAX_ROWS: Final = "twolane_worker_max_num_seqs"
START: Final = "twolane_worker_start_seconds"
BUILD_INFO: Final = "twolane_worker_build_info"
# The names that serving engines share, read by endpoint pickers of the Gateway API Inference Extension.
ENGINE_RUNNING: Final = "vllm:num_requests_running"
ENGINE_WAITING: Final = "vllm:num_requests_waiting"
ENGINE_KV_USAGE: Final = "vllm:kv_cache_usage_perc"

_SECONDS = (  # at most a factor of 2 apart; SLO thresholds are buckets of the gateway's histograms
    *(0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8),
    *(1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0, 35.0, 60.0, 120.0),
)
_CONSTRAINT_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_STEP_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_PER_TOKEN_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
_ROWS = (1, 2, 4, 8, 16, 32, 64)
_RATE = (0.5, 1, 2, 4, 8, 16, 32, 64, 128)
_RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0)
_NATS = (0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0)


class Meters:
    """Records observations as metrics; thread-safe."""

    def __init__(self, model: str, version: str = "") -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the size of the page and are not used
        self.registry = CollectorRegistry()
        named = {"gen_ai_request_model": model}
        self._duration = self._histogram(
            REQUEST_DURATION, "Time from submission to the end of a sequence", _SECONDS, **named
        )
        self._first = self._histogram(
            TIME_TO_FIRST_TOKEN, "Time from submission to the first sealed block", _SECONDS, **named
        )
        self._per_token = self._histogram(
            TIME_PER_OUTPUT_TOKEN, "Duration of a finished sequence per completion token", _PER_TOKEN_SECONDS, **named
        )
        self._step = self._histogram(STEP, "Duration of an engine iteration", _STEP_SECONDS)
        self._rows = self._histogram(ROWS_PER_STEP, "Sequences per engine iteration", _ROWS)
        self._tokens_per_forward = self._histogram(
            TOKENS_PER_FORWARD, "Completion tokens per forward pass of a finished sequence", _RATE
        )
        self._entropy = self._histogram(MEAN_ENTROPY, "Mean entropy per position of a sealed canvas, in nats", _NATS)
        steps = Histogram(
            DENOISING_STEPS, "Denoising steps per block", ["stop"], buckets=_STEPS, registry=self.registry
        )
        self._steps = {stop: steps.labels(stop=stop.value) for stop in BlockStop}
        self._register_sequence_metrics()
        self._register_event_metrics()
        self._register_gauges()
        self._register_engine_gauges(model)
        build = Gauge(BUILD_INFO, "Version and model of the worker", ["version", "model"], registry=self.registry)
        build.labels(version=version, model=model).set(1)

    def read_bytes(self, read: Callable[[], int]) -> None:
        """Read the bytes in flight when the metrics are rendered."""
        self._bytes.set_function(read)

    def observe(self, observation: Observation) -> None:
        """Record one observation."""
        match observation:
            case StepObserved(seconds=seconds, rows=rows, constraint_s=constraint_s):
                self._step.observe(seconds)
                self._rows.observe(rows)
                if constraint_s:
                    self._constraint[ConstraintWork.STEP].observe(constraint_s)
            case ConstraintObserved(work=work, seconds=seconds):
                self._constraint[work].observe(seconds)
            case BlockObserved(stop=stop, denoising_steps=steps, mean_entropy=entropy):
                self._steps[stop].observe(steps)
                self._entropy.observe(entropy)
                self._sealed.inc()
            case SequenceObserved():
                self._take_sequence(observation)
            case RefusalObserved(reason=reason):
                self._refused.labels(reason=reason).inc()
            case DraftObserved(drafted=drafted, accepted=accepted):
                self._drafted.inc(drafted)
                self._accepted.inc(accepted)
            case PrefixObserved(tokens=tokens):
                self._prefix_hits.inc()
                self._prefix_tokens.inc(tokens)
            case PreemptionObserved():
                self._preemptions.inc()
            case StartObserved(phase=phase, seconds=seconds):
                self._start[phase].set(seconds)
            case WaitObserved(predicted_s=predicted_s, actual_s=actual_s) if predicted_s > 0.0:
                self._wait_ratio.observe(actual_s / predicted_s)

    def render(self, status: EngineStatus) -> bytes:
        """All metrics in the Prometheus text format; gauges are set from `status`."""
        self._running.set(status.running)
        self._waiting.set(status.waiting)
        self._wait.set((status.predicted_wait_ms or 0.0) / 1000)
        self._kv.set(status.kv_bytes)
        self._pressure.set(status.pressure)
        self._retained.set(status.retained_contexts)
        self._used.set(status.memory_used_bytes)
        self._limit.set(status.memory_limit_bytes)
        self._weights.set(status.weight_bytes)
        self._max_rows.set(status.max_num_seqs)
        self._engine_running.set(status.running)
        self._engine_waiting.set(status.waiting)
        self._engine_kv_usage.set(status.running / status.max_num_seqs if status.max_num_seqs else 0.0)
        for word, gauge in self._states.items():
            gauge.set(word is status.state)
        return generate_latest(self.registry)

    def _register_sequence_metrics(self) -> None:
        self._sealed = Counter(SEALED_BLOCKS, "Sealed canvases", registry=self.registry)
        sequences = Counter(SEQUENCES, "Ended sequences", ["outcome"], registry=self.registry)
        self._sequences = {outcome: sequences.labels(outcome=outcome.value) for outcome in Outcome}
        tokens = Counter(
            TOKENS,
            "Tokens of ended sequences; cached tokens are included in prompt tokens",
            ["kind"],
            registry=self.registry,
        )
        self._prompt, self._cached, self._completion = (
            tokens.labels(kind=kind) for kind in ("prompt", "cached", "completion")
        )
        phase = Histogram(PHASE, "Time of a sequence per phase", ["phase"], buckets=_SECONDS, registry=self.registry)
        self._queue, self._prefill, self._denoise = (
            phase.labels(phase=name) for name in ("queue", "prefill", "denoise")
        )
        constraint = Histogram(
            CONSTRAINT,
            "Time spent on constraints per phase",
            ["phase"],
            buckets=_CONSTRAINT_SECONDS,
            registry=self.registry,
        )
        self._constraint = {work: constraint.labels(phase=work.value) for work in ConstraintWork}

    def _register_event_metrics(self) -> None:
        self._cancelled = Counter(
            CANCELLED, "Sequences cancelled because the client disconnected", registry=self.registry
        )
        self._prefix_hits = Counter(PREFIX_HITS, "Prefix-cache hits", registry=self.registry)
        self._prefix_tokens = Counter(
            PREFIX_TOKENS, "Prompt tokens reused from the prefix cache", registry=self.registry
        )
        self._drafted = Counter(
            DRAFTED_TOKENS, "Tokens of drafts that were verified, in verified mode", registry=self.registry
        )
        self._accepted = Counter(ACCEPTED_TOKENS, "Tokens of drafts that were accepted", registry=self.registry)
        self._preemptions = Counter(PREEMPTIONS, "Preempted sequences", registry=self.registry)
        self._wait_ratio = self._histogram(WAIT_RATIO, "Actual / predicted queue wait", _RATIOS)
        self._refused = Counter(REFUSED, "Rejected requests", ["reason"], registry=self.registry)

    def _register_gauges(self) -> None:
        state = Gauge(STATE, "1 for the current state of the worker, else 0", ["state"], registry=self.registry)
        self._states = {word: state.labels(state=word.value) for word in Residency}
        memory = Gauge(MEMORY_BYTES, "Device memory", ["kind"], registry=self.registry)
        self._used, self._limit, self._weights = (memory.labels(kind=kind) for kind in ("used", "limit", "weights"))
        start = Gauge(
            START,
            "Duration of the last start per phase; warm_up is without compiling",
            ["phase"],
            registry=self.registry,
        )
        self._start = {phase: start.labels(phase=phase.value) for phase in StartPhase}
        self._max_rows = Gauge(MAX_ROWS, "Sequences that may run together at present", registry=self.registry)
        self._running = Gauge(RUNNING, "Running sequences", registry=self.registry)
        self._waiting = Gauge(WAITING, "Queued sequences", registry=self.registry)
        self._wait = Gauge(PREDICTED_WAIT, "Predicted queue wait of a new request", registry=self.registry)
        self._kv = Gauge(KV_BYTES, "KV-cache bytes of running sequences", registry=self.registry)
        self._pressure = Gauge(
            PRESSURE, "1 prefix cache dropped, 2 batch reduced, 3 admission stopped", registry=self.registry
        )
        self._bytes = Gauge(BYTES_IN_FLIGHT, "Bytes of request bodies held in memory", registry=self.registry)
        self._retained = Gauge(RETAINED, "Contexts in the prefix cache", registry=self.registry)

    def _register_engine_gauges(self, model: str) -> None:
        """A sequence holds one slot of the KV cache, whatever its length, so their share is that of the slots."""

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ["model_name"], registry=self.registry).labels(model_name=model)

        self._engine_running = gauge(ENGINE_RUNNING, "Running sequences, under the name that engines share")
        self._engine_waiting = gauge(ENGINE_WAITING, "Queued sequences, under the name that engines share")
        self._engine_kv_usage = gauge(ENGINE_KV_USAGE, "KV-cache slots in use, from 0 to 1; the name is the engines'")

    def _take_sequence(self, observed: SequenceObserved) -> None:
        self._sequences[observed.outcome].inc()
        if observed.outcome is Outcome.CANCELLED:
            self._cancelled.inc()
        self._prompt.inc(observed.usage.prompt_tokens)
        self._cached.inc(observed.usage.cached_tokens)
        self._completion.inc(observed.usage.completion_tokens)
        if observed.queue_s is not None:
            self._queue.observe(observed.queue_s)
        if observed.queue_s is not None and observed.prefill_s is not None:
            self._prefill.observe(observed.prefill_s)
            self._denoise.observe(observed.total_s - observed.queue_s - observed.prefill_s)
        self._duration.observe(observed.total_s)
        if observed.first_block_s is not None:
            self._first.observe(observed.first_block_s)
        if observed.outcome is Outcome.FINISHED and observed.usage.completion_tokens:
            self._per_token.observe(observed.total_s / observed.usage.completion_tokens)
            self._tokens_per_forward.observe(observed.usage.tokens_per_forward)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], **labels: str) -> Histogram:
        metric = Histogram(name, text, list(labels), buckets=buckets, registry=self.registry)
        return metric.labels(**labels) if labels else metric
