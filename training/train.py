"""Trains the embedded checkpoint in two stages: `python -m training.train --out runs/tiny`, then
`python -m training.train --stage polish --start runs/tiny/checkpoint --out runs/polish`. Both resume automatically.

Data and noise of a step depend only on the seed and the step number, so a resumed run equals an uninterrupted one.
Training uses one thread: at this size a second one does not help.
"""

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from transformers import DiffusionGemmaForBlockDiffusion

from training.batches import make_batch
from training.export import export
from training.model import build_model, speed_up_training
from training.objective import losses
from training.stages import STAGES, Stage

SAVE_EVERY_S = 300


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="output folder: state, log and exported checkpoint (resumes an earlier run)",
    )
    parser.add_argument("--stage", choices=STAGES, default="scratch", help="training stage")
    parser.add_argument("--start", metavar="CHECKPOINT", help="initial weights [default: random]")
    parser.add_argument("--steps", type=int, help="number of steps [default: that of the stage]")
    parser.add_argument("--seed", type=int, default=1, help="random seed")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    run = Run(STAGES[options.stage], seed=options.seed, steps=options.steps, out=options.out, start=options.start)
    run.resume()
    run.train()


class Run:
    """State of one training run: model, optimisers and step counter."""

    def __init__(self, stage: Stage, *, seed: int, steps: int | None, out: Path, start: str | None = None) -> None:
        self.stage, self.seed, self.steps, self.out, self.step = stage, seed, steps or stage.steps, out, 0
        self.model: Any = build_model(seed)
        if start is not None:
            self.model.load_state_dict(DiffusionGemmaForBlockDiffusion.from_pretrained(start).state_dict())
        speed_up_training(self.model)
        self.optimizers = _optimizers(self.model, stage.peak_rate)

    def train(self) -> None:
        """Train to the last step; save and export every SAVE_EVERY_S seconds."""
        saved = began = time.monotonic()
        recent: list[dict[str, float]] = []
        while self.step < self.steps:
            recent.append(self._one_step())
            self.step += 1
            if self.step % 25 == 0:
                self._log(recent, time.monotonic() - began)
                recent.clear()
            if time.monotonic() - saved > SAVE_EVERY_S or self.step == self.steps:
                self.save()
                saved = time.monotonic()

    def _one_step(self) -> dict[str, float]:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = self.stage.rate(self.step, self.steps)
        report = self._add_gradients()
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        return report

    def _add_gradients(self) -> dict[str, float]:
        """The gradients of one step; returns figures for the log."""
        report: dict[str, float] = {}
        rows = sum(count for part in self.stage.parts for _, count, _ in part.rows)
        for number, part in enumerate(self.stage.parts):
            rng = random.Random(f"{self.seed}/{self.step}/{number}")
            generator = torch.Generator().manual_seed(rng.getrandbits(62))
            samples = part.samples(rng)
            batch = make_batch(samples, rng, generator, is_anchored=part.is_anchored)
            unroll = self.stage.unroll(rng, part, self.step / self.steps)
            with torch.autocast("cpu", torch.bfloat16):
                loss = losses(self.model, batch, unroll, generator)
            total = (loss.denoising + loss.autoregressive) * (len(samples) / rows)
            total.backward()
            report[part.name] = loss.denoising.item()
            report[part.name + "/autoregressive"] = loss.autoregressive.item()
        return report

    def _log(self, recent: list[dict[str, float]], elapsed_s: float) -> None:
        means = {key: round(sum(r[key] for r in recent) / len(recent), 4) for key in recent[0]}
        line = json.dumps({"step": self.step, "elapsed_s": round(elapsed_s), **means})
        print(line, flush=True)
        with (self.out / "log.jsonl").open("a") as log:
            log.write(line + "\n")

    def save(self) -> None:
        """Write the state to a new file and replace the old one atomically, then export the model."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        fresh = self.out / "state.new"
        torch.save(state, fresh)
        fresh.replace(self.out / "state.pt")
        self._export()

    def _export(self) -> None:
        export(self.model, self.out / "checkpoint")

    def resume(self) -> None:
        """Continue from the last saved state, if any."""
        path = self.out / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def _optimizers(model: Any, rate: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for matrices inside the layers, AdamW for embeddings, routers and norms."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = parameter.ndim == 2 and not any(part in name for part in ("embed", "lm_head", "router"))
        (matrices if inner else others).append(parameter)
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=rate, weight_decay=0.0)]


if __name__ == "__main__":
    main()
