"""Trains the weights for decisions of the embedded checkpoint: `python -m training.decide --out runs/decisions`.

They start from the checkpoint's own weights, or from learned ones (`--weights`), and are written to a file of their
own, so that nothing else that the checkpoint does can change. Resumes automatically, as `training.train` does.
"""

import argparse
import random
import statistics
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file

from diffusion_worker.models.decision_weights import DECISION_WEIGHTS
from diffusion_worker.models.loader import LoadOptions, load
from training.decision_batches import decision_batch
from training.decision_objective import decision_losses
from training.stages import Stage
from training.tasks.decisions import QUESTIONS, practice_set
from training.train import Run

FIRST: Final = Stage(parts=(), steps=640, peak_rate=3e-3, warmup_steps=30, held=0.4, unroll_from=1.0)
LATER: Final = Stage(parts=(), steps=180, peak_rate=1e-3, warmup_steps=10, held=0.3, unroll_from=1.0)  # continued
BATCHES: Final = 2  # of a step, each with questions of its own
TEXTS: Final = 8  # of a batch
SECOND_SHARE: Final = 0.1  # of batches that learn the second pass over their canvases
READ_SHARE: Final = 0.2  # of batches that learn the JSON answers as well
FEW_STEPS: Final = 150  # until the number of questions is that of the benchmark, if nothing was learned before
MANY_SHARE: Final = 0.8  # of batches with as many questions as that


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="output folder (resumes an earlier run)")
    parser.add_argument("--start", default="checkpoints/twolane-tiny", help="checkpoint to start from")
    parser.add_argument("--weights", type=Path, help="decision weights to start from, instead of the checkpoint's own")
    parser.add_argument("--steps", type=int, help="number of steps [default: that of the stage]")
    parser.add_argument("--seed", type=int, default=1, help="random seed")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    run = DecisionRun(
        seed=options.seed, steps=options.steps, out=options.out, start=options.start, weights=options.weights
    )
    run.resume()
    run.train()


class DecisionRun(Run):
    """State of a training run on decisions."""

    def __init__(self, *, seed: int, steps: int | None, out: Path, start: str, weights: Path | None = None) -> None:
        super().__init__(LATER if weights else FIRST, seed=seed, steps=steps, out=out, start=start)
        self._info = load(start, LoadOptions(threads=1)).info
        self._before = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}
        self._is_continued = weights is not None
        if weights is not None:
            learned = load_file(weights)
            unknown = self.model.load_state_dict(learned, strict=False).unexpected_keys
            if unknown:
                raise ValueError(f"{weights}: not weights of this model: {', '.join(unknown)}")

    def _add_gradients(self) -> dict[str, float]:
        reports: list[dict[str, float]] = []
        for number in range(BATCHES):
            rng = random.Random(f"{self.seed}/{self.step}/{number}")
            generator = torch.Generator().manual_seed(rng.getrandbits(62))
            questions = question_count(rng, FEW_STEPS if self._is_continued else self.step)
            is_read = rng.random() < READ_SHARE
            asked = practice_set(rng, questions)
            batch = decision_batch(rng, generator, self._info, asked, rows=TEXTS, is_read=is_read)
            with torch.autocast("cpu", torch.bfloat16):
                found = decision_losses(self.model, batch, is_second=rng.random() < SECOND_SHARE)
            ((found.canvas + found.left_to_right) / BATCHES).backward()
            reports.append(
                {
                    "questions": float(questions),
                    "canvas": found.canvas.item(),
                    "canvas_right": found.canvas_right,
                    "left_to_right": found.left_to_right.item(),
                    "left_to_right_right": found.left_to_right_right,
                }
            )
        return {key: statistics.fmean(report[key] for report in reports) for key in reports[0]}

    def _export(self) -> None:
        """Write the weights that differ from those of the start, under their names in the checkpoint's own file."""
        decoder = self.model.model.decoder.named_parameters("model.decoder")  # shares its weights with the encoder
        names = {id(weight): name for name, weight in decoder}
        changed = {
            names.get(id(weight), name): weight.detach().contiguous()
            for name, weight in self.model.named_parameters()
            if not torch.equal(weight, self._before[name])
        }
        save_file(changed, self.out / DECISION_WEIGHTS)


def question_count(rng: random.Random, step: int) -> int:
    """Questions of a batch at this step: at first few, which are easier to find again by their numbers; later mostly as
    many as the benchmark asks."""
    most = min(QUESTIONS, 1 + QUESTIONS * step // FEW_STEPS)
    return most if rng.random() < MANY_SHARE else rng.randint(1, most)


if __name__ == "__main__":
    main()
