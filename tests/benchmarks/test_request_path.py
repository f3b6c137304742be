"""The benchmark of a request inside the gateway drives a whole gateway without sockets."""

from benchmarks.request_path.__main__ import HERE, KINDS, running


def test_a_gateway_without_sockets_answers_whole_and_streamed_and_counts_its_calls() -> None:
    with running("this", HERE, []) as version:
        costs = [version.command("cost", kind, 16) for kind in KINDS]
        calls = version.command("calls", "whole", 16)
    assert min(costs) > 0
    assert calls["gateway/pipeline.py:Pipeline.handle"] >= 1
    assert calls["gateway/classifier/model.py:LearnedStage.__call__"] == 1
