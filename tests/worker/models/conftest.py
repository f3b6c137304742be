"""A small checkpoint with experts, in a folder that a test may change."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, make_library_model: Any) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    make_library_model(dtype=torch.bfloat16, experts=4, vocab=64).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny"))
