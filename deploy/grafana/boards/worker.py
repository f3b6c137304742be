"""Queue, batches, steps, sequences and memory of the diffusion workers."""

from typing import Final

from deploy.grafana.panels import (
    HERE,
    YES_OR_NO,
    Board,
    Colour,
    Query,
    Section,
    gauge,
    lines,
    mean,
    number,
    quantile,
    rate,
    rate_of,
    states,
    words,
)

W: Final = "twolane_worker"

_CACHED: Final = gauge(f"{W}_retained_contexts", "instance")
_ROWS: Final = mean(f"{W}_rows_per_step", "instance")

_GLANCE: Final = Section(
    title="Overview",
    panels=(
        number(
            "Serving workers",
            "Workers in state ready or degraded.",
            "short",
            f'sum({W}_state{{{HERE}, state=~"ready|degraded"}})',
        ),
        number("Waiting sequences", "Sequences in the waiting queue.", "short", f"sum({W}_waiting{{{HERE}}})"),
        number("Sealed blocks", "Completed canvases per second.", "ops", rate_of(f"{W}_sealed_blocks_total")),
        number(
            "Longest predicted wait",
            "Wait predicted for a new request at the busiest worker.",
            "s",
            f"max({W}_predicted_wait_seconds{{{HERE}}})",
        ),
    ),
)

_QUEUE: Final = Section(
    title="Queue",
    panels=(
        lines(
            "Running and waiting",
            "Running sequences, waiting sequences and the limit of running sequences (`max_num_seqs`).",
            "short",
            Query(expr=gauge(f"{W}_running", "instance").expr, legend="running {{instance}}"),
            Query(expr=gauge(f"{W}_waiting", "instance").expr, legend="waiting {{instance}}"),
            Query(expr=gauge(f"{W}_max_num_seqs", "instance").expr, legend="max_num_seqs {{instance}}"),
        ),
        lines(
            "Predicted wait",
            "Predicted queue wait, used by the gateway and the autoscaler.",
            "s",
            gauge(f"{W}_predicted_wait_seconds", "instance", how="max"),
        ),
        lines(
            "Rejected requests",
            "Requests rejected at admission, by reason.",
            "reqps",
            rate(f"{W}_refused_total", "reason"),
        ),
        lines(
            "Request bytes in flight",
            "Bytes of request bodies held in memory.",
            "bytes",
            gauge(f"{W}_bytes_in_flight", "instance"),
        ),
        lines(
            "Left and preempted",
            "Sequences cancelled by a client disconnect, and sequences preempted by others.",
            "ops",
            Query(expr=rate_of(f"{W}_cancelled_total"), legend="cancelled"),
            Query(expr=rate_of(f"{W}_preemptions_total"), legend="preempted"),
        ),
    ),
)

_STEPS: Final = Section(
    title="Denoising loop",
    panels=(
        lines(
            "Step time",
            "Duration of one engine iteration over all rows, median and p95.",
            "s",
            quantile(0.5, f"{W}_step_seconds"),
            quantile(0.95, f"{W}_step_seconds"),
        ),
        lines(
            "Rows per step",
            "Sequences per engine iteration (mean batch size).",
            "short",
            _ROWS,
        ),
        lines(
            "Denoising steps per block",
            "Mean, by stop reason: stable (converged), steps (step limit), deadline.",
            "short",
            mean(f"{W}_denoising_steps", "stop"),
        ),
        lines(
            "Tokens per forward pass",
            "Above 1, diffusion needs fewer passes than left-to-right decoding.",
            "short",
            mean(f"{W}_tokens_per_forward"),
            quantile(0.5, f"{W}_tokens_per_forward"),
        ),
        lines(
            "Drafts",
            "Tokens per second that were drafted and verified, and those of them that were accepted.",
            "ops",
            Query(expr=rate_of(f"{W}_drafted_tokens_total"), legend="drafted"),
            Query(expr=rate_of(f"{W}_accepted_draft_tokens_total"), legend="accepted"),
        ),
        lines(
            "Constraint load",
            "Seconds of work per second by phase: compile, step (on the host, between passes) and validate.",
            "percentunit",
            rate(f"{W}_constraint_seconds_sum", "phase"),
        ),
        lines(
            "Constraint time",
            "Mean duration by phase.",
            "s",
            mean(f"{W}_constraint_seconds", "phase"),
        ),
        lines(
            "Entropy of sealed blocks",
            "Mean nats per position: the model's uncertainty about its output.",
            "short",
            mean(f"{W}_mean_entropy"),
        ),
    ),
)

_SEQUENCES: Final = Section(
    title="Sequences",
    panels=(
        lines(
            "Request duration",
            "From submission to completion, median and p95.",
            "s",
            quantile(0.5, "gen_ai_server_request_duration_seconds", "gen_ai_request_model"),
            quantile(0.95, "gen_ai_server_request_duration_seconds", "gen_ai_request_model"),
        ),
        lines(
            "Sequences by outcome",
            "Completed sequences per second by outcome.",
            "ops",
            rate(f"{W}_sequences_total", "outcome"),
        ),
        lines(
            "Time by phase",
            "p95 of the time a sequence spends in queue, prefill and denoising.",
            "s",
            quantile(0.95, f"{W}_phase_seconds", "phase"),
        ),
        lines(
            "Token throughput",
            "Input tokens, those of them served from the prefix cache, and output tokens.",
            "ops",
            rate(f"{W}_tokens_total", "kind"),
        ),
        lines(
            "Time to first block",
            "p95 from submission to the first sealed block.",
            "s",
            quantile(0.95, "gen_ai_server_time_to_first_token_seconds", "gen_ai_request_model"),
        ),
        lines(
            "Time per output token",
            "Mean over completed sequences.",
            "s",
            mean("gen_ai_server_time_per_output_token_seconds", "gen_ai_request_model"),
        ),
        lines(
            "Actual / predicted queue wait",
            "Median over sequences that had to wait. 1: the prediction is exact.",
            "short",
            quantile(0.5, f"{W}_queue_wait_prediction_ratio"),
        ),
    ),
)

_MEMORY: Final = Section(
    title="Memory and model state",
    panels=(
        states(
            "Model state",
            "Lifecycle state of each worker's weights.",
            Query(expr=f"max by (instance, state) ({W}_state{{{HERE}}})", legend="{{instance}} {{state}}"),
            words=YES_OR_NO,
        ),
        lines(
            "Device memory",
            "Memory in use, the part used by weights, and the limit.",
            "bytes",
            gauge(f"{W}_memory_bytes", "instance", "kind"),
        ),
        lines(
            "Versions and models",
            "Workers by version and served checkpoint.",
            "short",
            gauge(f"{W}_build_info", "version", "model"),
        ),
        lines(
            "Duration of the last start",
            "Seconds of loading the weights, compiling kernels and warming up.",
            "s",
            gauge(f"{W}_start_seconds", "instance", "phase"),
        ),
        lines("KV cache", "KV-cache bytes of running sequences.", "bytes", gauge(f"{W}_kv_bytes", "instance")),
        states(
            "Memory pressure level",
            "Measures in effect to save memory: 1 prefix cache dropped, 2 batch reduced, 3 admission stopped.",
            gauge(f"{W}_memory_pressure_level", "instance", how="max"),
            words=words(
                none=Colour.GOOD,
                prefix_cache_dropped=Colour.SOSO,
                batch_reduced=Colour.BAD,
                admission_stopped=Colour.BAD,
            ),
        ),
        lines(
            "Prefix-cache reuse",
            "Tokens per second that were not recomputed, and hits per second.",
            "ops",
            Query(expr=rate_of(f"{W}_prefix_tokens_total"), legend="tokens"),
            Query(expr=rate_of(f"{W}_prefix_hits_total"), legend="hits"),
        ),
        lines(
            "Cached contexts",
            "Contexts in the prefix cache, which is dropped first under memory pressure.",
            "short",
            _CACHED,
        ),
    ),
)

WORKER: Final = Board(
    uid="twolane-worker",
    title="Twolane / Worker",
    description="Queue, batches, steps, sequences and memory of the diffusion workers.",
    jobs_of=f"{W}_state",
    sections=(_GLANCE, _QUEUE, _STEPS, _SEQUENCES, _MEMORY),
)
