"""An interrupted training run resumes with the results of an uninterrupted one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.model import build_model, modeling, speed_up_training
from training.stages import STAGES, Stage
from training.train import Run


def with_few_rows(stage: Stage) -> Stage:
    """The stage with two rows of each task: a step on all of them takes five seconds."""
    parts = (replace(part, rows=tuple((task, 2, share) for task, _, share in part.rows)) for part in stage.parts)
    return replace(stage, parts=tuple(parts))


@pytest.mark.slow
@pytest.mark.parametrize("stage", [with_few_rows(stage) for stage in STAGES.values()], ids=STAGES.keys())
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, stage: Stage) -> None:
    """Two steps at once, and one step, a save, a resume and one more step: the same weights."""
    torch.set_num_threads(1)
    whole = Run(stage, seed=5, steps=2, out=tmp_path / "whole")
    (tmp_path / "whole").mkdir()
    whole.train()

    (tmp_path / "cut").mkdir()
    first = Run(stage, seed=5, steps=2, out=tmp_path / "cut")
    first._one_step()
    first.step = 1
    first.save()
    second = Run(stage, seed=5, steps=2, out=tmp_path / "cut")
    second.resume()
    assert second.step == 1
    second.train()

    for (name, a), b in zip(whole.model.state_dict().items(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_speeding_up_one_model_leaves_all_others_alone() -> None:
    experts = modeling.DiffusionGemmaTextExperts
    before = experts.forward
    model = build_model(1)
    speed_up_training(model)
    assert experts.forward is before
    assert any(isinstance(module, experts) and module.forward.__func__ is not before for module in model.modules())
