"""What a trial sends: the parameters and the decoding mode that it tries, and nothing that the worker refuses there."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from twolane.bench.plan import Call, Prompt
from twolane.tune import command
from twolane.tune.plan import DEFAULTS, Parameters, Trial
from twolane.tune.store import TrialStore
from twolane.tune.trial import Offer, TunedWorker, _with_parameters

EDIT = {
    "messages": [{"role": "user", "content": "x"}],
    "prediction": {"type": "content", "content": "y"},
    "diffusion": {"steps": 3, "deadline_ms": 900},
}


@pytest.mark.parametrize(
    ("parameters", "changes", "without"),
    [
        (DEFAULTS, {}, ()),
        (Parameters(steps=8, anchor=0.5), {"diffusion": {"steps": 8, "deadline_ms": 900, "anchor": 0.5}}, ()),
        (Parameters(decoding="verified"), {"model": "d:verified", "diffusion": {"deadline_ms": 900}}, ()),
        (
            Parameters(decoding="autoregressive"),
            {"model": "d:autoregressive", "diffusion": {"deadline_ms": 900}},
            ("prediction",),
        ),
    ],
)
def test_a_decoding_mode_gets_what_it_takes(
    parameters: Parameters, changes: dict[str, Any], without: tuple[str, ...]
) -> None:
    """Steps are for canvases, and autoregressive mode has no use for a prediction; both would be refused."""
    call = _with_parameters(Call(due_s=0.0, prompt=Prompt(body=EDIT)), parameters, "d")
    assert call.prompt.body == {name: value for name, value in {**EDIT, **changes}.items() if name not in without}


@pytest.mark.parametrize(("line", "modes"), [([], ("verified", "autoregressive")), (["--vary", "steps=4"], ())])
def test_the_decoding_modes_that_the_worker_offers_are_tried(
    line: list[str], modes: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the parameters to try are given."""
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a", "expect": "b"}\n')
    paths = ["--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path)]
    options = command.parse(["http://127.0.0.1:9", *paths, *line])
    tried: list[Parameters] = []

    async def read_health(_url: str) -> dict[str, Any]:
        return {"max_num_seqs": 8}

    async def read_offer(_load: object) -> Offer:
        return Offer(canvas_length=64, modes=("verified", "autoregressive"))

    async def run_trial(_worker: TunedWorker, parameters: Parameters, _calls: object, seconds: float) -> Trial:
        tried.append(parameters)
        rate = {"parameters": parameters, "seconds": seconds, "sent": 1, "p50_ms": 1.0, "p95_ms": 1.0, "quality": 1.0}
        return Trial(**rate, memory_bytes=0, errors={})  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def restored(_worker: TunedWorker) -> AsyncIterator[None]:
        yield

    for each in (read_health, read_offer, run_trial, restored):
        monkeypatch.setattr(command, each.__name__, each)
    asyncio.run(command.tune(options, TrialStore(options.out, options.fingerprint()), Console(quiet=True)))
    found = [each.decoding for each in tried if each.decoding]
    assert tuple(dict.fromkeys(found)) == modes
