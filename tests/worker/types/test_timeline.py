"""Timestamps and timelines of sequences."""

from diffusion_worker.types.timeline import MAX_EVENTS, Timeline, Times


def test_the_first_time_of_everything_holds() -> None:
    """A sequence that was preempted waited for its first slot only once."""
    times = Times(10.0)
    assert (times.queue_s, times.prefill_s, times.first_block_s) == (None, None, None)
    times.schedule(11.0)
    times.step(13.0, 14.0, block=0)
    times.seal(15.0)
    times.preempt(16.0)
    times.schedule(18.0)
    times.step(19.0, 20.0, block=1)
    times.seal(21.0)
    assert (times.queue_s, times.prefill_s, times.first_block_s) == (1.0, 2.0, 5.0)


def test_a_traced_sequence_leaves_its_events_in_order() -> None:
    """With numbers only."""
    timeline = Timeline()
    times = Times(0.0, timeline)
    times.schedule(1.0)
    times.step(2.0, 3.0, block=0, step=1)
    times.preempt(4.0)
    recorded = [(event.name, event.at_s, dict(event.numbers)) for event in timeline.events]
    assert recorded == [
        ("placed", 1.0, {}),
        ("prefilled", 2.0, {}),
        ("step", 3.0, {"block": 0, "step": 1}),
        ("preempted", 4.0, {}),
    ]


def test_a_trail_is_bounded_and_counts_what_it_left_out() -> None:
    timeline = Timeline()
    for number in range(MAX_EVENTS + 7):
        timeline.record("step", float(number))
    assert (len(timeline.events), timeline.dropped) == (MAX_EVENTS, 7)
    assert timeline.events[0].at_s == 0.0
