"""The running classifier: its weights follow the policy and the file."""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gateway.classifier.running import RunningClassifier
from gateway.classifier.weights import FILE, read_model, write_model
from gateway.enums import Task
from gateway.errors import BadWeights
from gateway.types import Query

pytestmark = pytest.mark.anyio
MakeQuery = Callable[..., Query]
TEXT = "Correct the spelling of this sentence: He recieved teh parcel."


def write_other(path: Path) -> None:
    """Weights for which every request is an agent's."""
    model = read_model()
    weights = np.zeros_like(model.weights)
    weights[:, list(Task).index(Task.AGENT)] = 1.0
    write_model(replace(model, weights=weights), path)


@pytest.mark.slow
async def test_a_policy_can_name_other_weights_and_return_to_the_shipped_ones(tmp_path: Path, query: MakeQuery) -> None:
    write_other(tmp_path / "own.npz")
    asked, classifier = query(last_user_text=TEXT), RunningClassifier(None)
    assert classifier(asked).task is Task.EDIT
    await classifier.use(tmp_path / "own.npz")
    assert classifier(asked).task is Task.AGENT
    await classifier.use(None)
    assert classifier(asked).task is Task.EDIT


@pytest.mark.slow
async def test_weights_are_read_again_when_the_file_changes(tmp_path: Path, query: MakeQuery) -> None:
    path, asked = tmp_path / "own.npz", query(last_user_text=TEXT)
    shutil.copy(FILE, path)
    classifier = RunningClassifier(path)
    following = asyncio.create_task(classifier.follow(0.01))
    write_other(tmp_path / "next.npz")
    (tmp_path / "next.npz").rename(path)
    async with asyncio.timeout(60):
        while classifier(asked).task is not Task.AGENT:  # noqa: ASYNC110 - another task changes it
            await asyncio.sleep(0.01)
    following.cancel()


async def test_damaged_weights_leave_the_running_ones_in_place(
    tmp_path: Path, query: MakeQuery, caplog: pytest.LogCaptureFixture
) -> None:
    path, asked = tmp_path / "own.npz", query(last_user_text=TEXT)
    shutil.copy(FILE, path)
    classifier = RunningClassifier(path)
    path.write_bytes(b"no archive")
    following = asyncio.create_task(classifier.follow(0.01))
    async with asyncio.timeout(60):
        while "not reloaded" not in caplog.text:  # noqa: ASYNC110 - another task logs it
            await asyncio.sleep(0.01)
    following.cancel()
    assert classifier(asked).task is Task.EDIT
    with pytest.raises(BadWeights, match=r"missing\.npz"):
        await classifier.use(tmp_path / "missing.npz")
    assert classifier(asked).task is Task.EDIT
