"""Metrics: observations become Prometheus text with the documented names."""

import re
from dataclasses import replace

import pytest

from diffusion_worker.telemetry.metrics import Meters
from diffusion_worker.types.events import Usage
from diffusion_worker.types.observations import (
    BlockObserved,
    BlockStop,
    ConstraintObserved,
    ConstraintWork,
    DraftObserved,
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
from diffusion_worker.types.requests import DecodingMode
from diffusion_worker.types.status import EngineStatus, Pressure, Residency

STATUS = EngineStatus(
    state=Residency.READY,
    running=2,
    waiting=1,
    max_num_seqs=8,
    predicted_wait_ms=1500.0,
    memory_used_bytes=10,
    memory_limit_bytes=20,
    kv_bytes=5,
    retained_contexts=3,
    weight_bytes=7,
    pressure=Pressure.BATCH,
)
PHASES = ("queue", "prefill", "denoise")
USAGE = Usage(prompt_tokens=3, completion_tokens=8, denoising_steps=3, forward_passes=4, confidence=0.9, converged=True)


def values(meters: Meters, status: EngineStatus = STATUS) -> dict[str, float]:
    """Series without buckets."""
    lines = meters.render(status).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def ended(outcome: Outcome, first_block_s: float | None = 0.1) -> SequenceObserved:
    return SequenceObserved(
        decoding_mode=DecodingMode.DIFFUSION, outcome=outcome, first_block_s=first_block_s, total_s=0.8, usage=USAGE
    )


def test_queue_and_cache_are_reported_under_the_names_that_engines_share_too() -> None:
    """The model-server protocol of the Gateway API Inference Extension."""
    meters = Meters("model")
    found = values(meters)
    assert found['vllm:num_requests_waiting{model_name="model"}'] == found["twolane_worker_waiting"] == 1
    assert found['vllm:num_requests_running{model_name="model"}'] == found["twolane_worker_running"] == 2
    assert found['vllm:kv_cache_usage_perc{model_name="model"}'] == 2 / 8
    assert values(meters, replace(STATUS, max_num_seqs=0))['vllm:kv_cache_usage_perc{model_name="model"}'] == 0


def test_a_finished_sequence_counts_time_tokens_and_rate() -> None:
    """Duration, time to first block, seconds per token, tokens per pass."""
    meters = Meters("model")
    meters.observe(ended(Outcome.FINISHED))
    found = values(meters)
    label = '{gen_ai_request_model="model"}'
    assert found[f"gen_ai_server_request_duration_seconds_sum{label}"] == 0.8
    assert found[f"gen_ai_server_time_to_first_token_seconds_sum{label}"] == 0.1
    assert found[f"gen_ai_server_time_per_output_token_seconds_sum{label}"] == pytest.approx(0.1)
    assert found["twolane_worker_tokens_per_forward_sum"] == 2.0


def test_a_cancelled_sequence_counts_as_cancelled_and_not_as_speed() -> None:
    """It says nothing about time per token."""
    meters = Meters("model")
    meters.observe(ended(Outcome.CANCELLED, first_block_s=None))
    found = values(meters)
    assert found["twolane_worker_cancelled_total"] == 1
    assert found["twolane_worker_tokens_per_forward_count"] == 0


def test_a_sequences_time_and_tokens_are_distinguished() -> None:
    """Queue, prefill and denoising make up its time; one that never had a slot took none of them."""
    meters = Meters("model")
    meters.observe(replace(ended(Outcome.FINISHED), queue_s=0.2, prefill_s=0.1))
    meters.observe(ended(Outcome.FAULTED, first_block_s=None))
    found = values(meters)
    phases = {name: found[f'twolane_worker_phase_seconds_sum{{phase="{name}"}}'] for name in PHASES}
    assert phases == pytest.approx({"queue": 0.2, "prefill": 0.1, "denoise": 0.5})
    assert found['twolane_worker_phase_seconds_count{phase="queue"}'] == 1
    assert found['twolane_worker_sequences_total{outcome="faulted"}'] == 1
    tokens = {kind: found[f'twolane_worker_tokens_total{{kind="{kind}"}}'] for kind in ("prompt", "completion")}
    assert tokens == {"prompt": 6, "completion": 16}


def test_work_on_constraints_is_timed_by_its_kind() -> None:
    """A step without constraints spent none."""
    meters = Meters("model")
    meters.observe(ConstraintObserved(work=ConstraintWork.COMPILE, seconds=1.5))
    meters.observe(StepObserved(seconds=0.01, rows=1, constraint_s=0.004))
    meters.observe(StepObserved(seconds=0.01, rows=1))
    found = values(meters)
    assert found['twolane_worker_constraint_seconds_sum{phase="compile"}'] == 1.5
    assert found['twolane_worker_constraint_seconds_count{phase="step"}'] == 1
    assert found['twolane_worker_constraint_seconds_count{phase="validate"}'] == 0


def test_steps_blocks_and_refusals_are_counted() -> None:
    """With labels from closed sets."""
    meters = Meters("model")
    meters.observe(StepObserved(seconds=0.01, rows=3))
    meters.observe(BlockObserved(stop=BlockStop.STABLE, denoising_steps=4, mean_entropy=0.001))
    meters.observe(DraftObserved(drafted=63, accepted=40))
    meters.observe(RefusalObserved(reason="overloaded"))
    found = values(meters)
    assert found["twolane_worker_rows_per_step_sum"] == 3
    assert found['twolane_worker_denoising_steps_sum{stop="stable"}'] == 4
    assert found["twolane_worker_sealed_blocks_total"] == 1
    assert found["twolane_worker_drafted_tokens_total"] == 63
    assert found["twolane_worker_accepted_draft_tokens_total"] == 40
    assert found['twolane_worker_refused_total{reason="overloaded"}'] == 1


def test_reuse_parking_and_waiting_are_counted() -> None:
    """The ratio of actual and predicted wait; none for a predicted wait of 0."""
    meters = Meters("model")
    for tokens in (5, 7):
        meters.observe(PrefixObserved(tokens=tokens))
    meters.observe(PreemptionObserved())
    meters.observe(WaitObserved(predicted_s=2.0, actual_s=3.0))
    meters.observe(WaitObserved(predicted_s=0.0, actual_s=3.0))
    found = values(meters)
    assert (found["twolane_worker_prefix_hits_total"], found["twolane_worker_prefix_tokens_total"]) == (2, 12)
    assert found["twolane_worker_preemptions_total"] == 1
    assert (
        found["twolane_worker_queue_wait_prediction_ratio_count"],
        found["twolane_worker_queue_wait_prediction_ratio_sum"],
    ) == (1, 1.5)


def test_gauges_show_the_present_status() -> None:
    """Gauges are read at scrape time."""
    found = values(Meters("model"))
    assert found["twolane_worker_running"] == 2
    assert found["twolane_worker_predicted_wait_seconds"] == 1.5
    assert [found[f'twolane_worker_memory_bytes{{kind="{kind}"}}'] for kind in ("used", "limit", "weights")] == [
        10,
        20,
        7,
    ]
    assert found["twolane_worker_max_num_seqs"] == 8
    assert (found["twolane_worker_memory_pressure_level"], found["twolane_worker_retained_contexts"]) == (2, 3)
    states = {name: value for name, value in found.items() if name.startswith("twolane_worker_state")}
    assert [name for name, value in states.items() if value] == ['twolane_worker_state{state="ready"}']
    assert len(states) == len(Residency)


def test_two_workers_in_one_process_keep_apart() -> None:
    """Each has a registry of its own."""
    first, second = Meters("a"), Meters("b")
    first.observe(RefusalObserved(reason="draining"))
    assert 'reason="draining"' not in second.render(STATUS).decode()


def test_all_names_follow_one_pattern() -> None:
    """Ours begin with twolane_worker_, conventions' with gen_ai_server_, engines' with vllm:."""
    families = re.findall(r"^# TYPE (\S+)", Meters("model").render(STATUS).decode(), re.M)
    assert families
    assert all(name.startswith(("twolane_worker_", "gen_ai_server_", "vllm:")) for name in families)


def test_the_phases_of_the_last_start_are_gauges() -> None:
    """A reload replaces them."""
    meters = Meters("model")
    for seconds in (30.0, 4.0):
        for phase in StartPhase:
            meters.observe(StartObserved(phase=phase, seconds=seconds))
    found = values(meters)
    assert {found[f'twolane_worker_start_seconds{{phase="{name}"}}'] for name in ("load", "compile", "warm_up")} == {
        4.0
    }
