"""The tables of docs/operations/gpu-workers.md state what the worker's own plan computes for each card."""

import json
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from diffusion_worker.memory.plan import Plan, PlanOptions, plan
from diffusion_worker.models.plan import measure
from diffusion_worker.types.model_info import ModelSize

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "operations" / "gpu-workers.md").read_text()
RELEASED: Final = json.loads((ROOT / "tests" / "worker" / "models" / "released_26b_a4b.json").read_text())
PREFIX_SLOTS: Final = 8  # by default
_NVFP4: Final = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
_DENSE: Final = ["vision_tower", "*self_attn*", "*.mlp.*", "*self_conditioning*"]
CHECKPOINTS: Final[dict[str, dict[str, Any] | None]] = {
    "bf16": None,
    "NVFP4 experts": {**_NVFP4, "exclude_modules": _DENSE},
    "NVFP4": {**_NVFP4, "exclude_modules": ["vision_tower"]},
    "FP8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}


def rows(header: str) -> list[list[str]]:
    """The cells of a table, by the beginning of its header."""
    lines = PAGE[PAGE.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@cache
def size_of(checkpoint: str) -> ModelSize:
    declared = CHECKPOINTS[checkpoint]
    config = RELEASED if declared is None else {**RELEASED, "quantization_config": declared}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        return measure(folder)


def planned(checkpoint: str, gigabytes: int, **options: int) -> Plan:
    return plan(size_of(checkpoint), PlanOptions(memory_limit_bytes=gigabytes * 10**9, **options))


def stated(found: Plan) -> tuple[int, float, int]:
    """Default context, GB of a step, and slots that fit."""
    assert found.default_context is not None
    [chosen] = [each for each in found.contexts if each.tokens == found.default_context]
    assert chosen.slots is not None
    return chosen.tokens, chosen.step_bytes / 1e9, chosen.slots


def numbers(context: str, step: str) -> tuple[int, float]:
    return int(context.removesuffix(" tokens").replace(",", "")), float(step.removesuffix(" GB"))


@pytest.mark.parametrize("row", rows("| card | default context |"), ids=lambda row: row[0])
def test_what_fits_in_bf16_is_what_is_planned(row: list[str]) -> None:
    cards, context, step, slots = row
    for card in map(int, re.findall(r"(\d+) GB", cards)):
        found = planned("bf16", card)
        if context.startswith("does not start"):
            assert found.default_context is None
            assert f"{found.weight_bytes['bfloat16'] / 1e9:.1f} GB" in context
            continue
        tokens, gigabytes, fitting = stated(found)
        assert (tokens, gigabytes) == (numbers(context, step)[0], pytest.approx(numbers(context, step)[1], abs=0.06))
        running, prefix = map(int, re.findall(r"\d+", slots)[:2])
        assert (running, prefix) == (found.max_num_seqs, min(PREFIX_SLOTS, fitting - running))


@pytest.mark.parametrize("row", rows("| card | checkpoint |"), ids=lambda row: f"{row[0]}, {row[1]}, {row[2]}")
def test_what_fits_packed_is_what_is_planned(row: list[str]) -> None:
    card, checkpoint, rows_, context, step, slots = row
    prefill = re.search(r"--max-prefill-tokens (\d+)", checkpoint)
    found = planned(
        checkpoint.split(", ")[0],
        int(card.removesuffix(" GB")),
        max_num_seqs=int(rows_),
        max_prefill_tokens=int(prefill[1]) if prefill else PlanOptions().max_prefill_tokens,
    )
    tokens, gigabytes, fitting = stated(found)
    assert (tokens, fitting) == (numbers(context, step)[0], int(slots))
    assert gigabytes == pytest.approx(numbers(context, step)[1], abs=0.06)
    if stored := re.search(r"([\d.]+) GB", checkpoint):
        assert found.stored_weight_bytes is not None
        assert float(stored[1]) == pytest.approx(found.stored_weight_bytes / 1e9, abs=0.06)


def test_both_tables_are_found_and_the_page_says_what_was_run() -> None:
    assert len(rows("| card | default context |")) >= 3
    assert {row[0] for row in rows("| card | checkpoint |")} >= {"24 GB", "32 GB", "80 GB", "141 GB"}
    assert "Nothing on this page has been run on a GPU" in PAGE
