"""The fast lane from inside: who waits, how the batches are filled, what a token costs, what memory is left."""

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

_KEPT: Final = gauge(f"{W}_retained_contexts", "instance")
_ROWS: Final = mean(f"{W}_rows_per_step", "instance")

_GLANCE: Final = Section(
    title="At a glance",
    panels=(
        number(
            "Workers that serve",
            "Workers in state ready or degraded.",
            "short",
            f'sum({W}_state{{{HERE}, state=~"ready|degraded"}})',
        ),
        number("Waiting", "Sequences that wait for a place.", "short", f"sum({W}_waiting{{{HERE}}})"),
        number("Blocks sealed", "Finished canvases per second.", "ops", rate_of(f"{W}_sealed_blocks_total")),
        number(
            "Longest predicted wait",
            "What a request sent to the fullest worker now would wait.",
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
            "Sequences that advance, those that wait for a place, and how many may advance together.",
            "short",
            Query(expr=gauge(f"{W}_running", "instance").expr, legend="running {{instance}}"),
            Query(expr=gauge(f"{W}_waiting", "instance").expr, legend="waiting {{instance}}"),
            Query(expr=gauge(f"{W}_max_num_seqs", "instance").expr, legend="room {{instance}}"),
        ),
        lines(
            "Predicted wait",
            "What the gateway and the autoscaler go by.",
            "s",
            gauge(f"{W}_predicted_wait_seconds", "instance", how="max"),
        ),
        lines(
            "Refused at the door",
            "Requests turned away, by reason.",
            "reqps",
            rate(f"{W}_refused_total", "reason"),
        ),
        lines(
            "Left and parked",
            "Sequences whose client hung up, and those that made way for a time.",
            "ops",
            Query(expr=rate_of(f"{W}_cancelled_total"), legend="cancelled"),
            Query(expr=rate_of(f"{W}_preemptions_total"), legend="parked"),
        ),
    ),
)

_LOOP: Final = Section(
    title="The loop",
    panels=(
        lines(
            "Step time",
            "One iteration over all rows.",
            "s",
            quantile(0.5, f"{W}_step_seconds"),
            quantile(0.95, f"{W}_step_seconds"),
        ),
        lines(
            "Rows per step",
            "Sequences that share an iteration: how full batches are.",
            "short",
            _ROWS,
        ),
        lines(
            "Denoising steps per block",
            "By why denoising ended: stable (sure of itself), steps (told to stop), deadline.",
            "short",
            mean(f"{W}_denoising_steps", "stop"),
        ),
        lines(
            "Tokens per forward pass",
            "Over 1 diffusion is quicker than reading left to right.",
            "short",
            mean(f"{W}_tokens_per_forward"),
            quantile(0.5, f"{W}_tokens_per_forward"),
        ),
        lines(
            "Constraints",
            "Seconds of work per second: compile, step (on the host, between passes) and validate.",
            "percentunit",
            rate(f"{W}_constraint_seconds_sum", "phase"),
        ),
        lines(
            "One piece of work on a constraint",
            "Mean time by phase.",
            "s",
            mean(f"{W}_constraint_seconds", "phase"),
        ),
        lines(
            "Entropy of sealed blocks",
            "Nats per position: how unsure the net was of what it wrote.",
            "short",
            mean(f"{W}_mean_entropy"),
        ),
    ),
)

_SEQUENCES: Final = Section(
    title="Sequences",
    panels=(
        lines(
            "Duration",
            "From submission to end.",
            "s",
            quantile(0.5, "gen_ai_server_request_duration_seconds", "gen_ai_request_model"),
            quantile(0.95, "gen_ai_server_request_duration_seconds", "gen_ai_request_model"),
        ),
        lines("Sequences by outcome", "How they ended.", "ops", rate(f"{W}_sequences_total", "outcome")),
        lines(
            "Phases",
            "p95 of what a sequence spends in queue, prefill and denoising.",
            "s",
            quantile(0.95, f"{W}_phase_seconds", "phase"),
        ),
        lines("Tokens", "Read, recalled (part of those read) and written.", "ops", rate(f"{W}_tokens_total", "kind")),
        lines(
            "First block",
            "From submission to the first sealed block.",
            "s",
            quantile(0.95, "gen_ai_server_time_to_first_token_seconds", "gen_ai_request_model"),
        ),
        lines(
            "Time per output token",
            "Of finished sequences.",
            "s",
            mean("gen_ai_server_time_per_output_token_seconds", "gen_ai_request_model"),
        ),
        lines(
            "Waited over foretold",
            "Median of real wait over predicted wait of those that had to wait: 1 is a good prophet.",
            "short",
            quantile(0.5, f"{W}_queue_wait_prediction_ratio"),
        ),
    ),
)

_MEMORY: Final = Section(
    title="Memory and residency",
    panels=(
        states(
            "Residency",
            "Where the weights are.",
            Query(expr=f"max by (instance, state) ({W}_state{{{HERE}}})", legend="{{instance}} {{state}}"),
            words=YES_OR_NO,
        ),
        lines(
            "Memory of the device",
            "In use, of that weights, against its limit.",
            "bytes",
            gauge(f"{W}_memory_bytes", "instance", "kind"),
        ),
        lines(
            "Versions and models",
            "Workers by the version of the program and the checkpoint they serve.",
            "short",
            gauge(f"{W}_build_info", "version", "model"),
        ),
        lines("Keys and values", "Of running sequences.", "bytes", gauge(f"{W}_kv_bytes", "instance")),
        states(
            "Pressure",
            "What was given up for memory.",
            gauge(f"{W}_memory_pressure_level", "instance", how="max"),
            words=words(none=Colour.GOOD, retained_contexts=Colour.SOSO, rows=Colour.BAD, the_door=Colour.BAD),
        ),
        lines(
            "Prefixes reused",
            "Tokens per second that were not computed again.",
            "ops",
            Query(expr=rate_of(f"{W}_prefix_tokens_total"), legend="tokens"),
            Query(expr=rate_of(f"{W}_prefix_hits_total"), legend="hits"),
        ),
        lines(
            "Contexts kept",
            "For reuse; the first to go under pressure.",
            "short",
            _KEPT,
        ),
    ),
)

WORKER: Final = Board(
    uid="twolane-worker",
    title="Twolane / Worker",
    description="The fast lane from inside.",
    jobs_of=f"{W}_state",
    sections=(_GLANCE, _QUEUE, _LOOP, _SEQUENCES, _MEMORY),
)
