"""Train the task classifier: `python -m training.classifier --out gateway/classifier/tasks.npz [--json FILE]`.

The writers are divided into folds. For each fold, a model is fitted to the lines of the other writers and evaluated on
its own; the temperature, and the figures that are printed, come from these. The model that is written is fitted to all
lines, with that temperature. `--leave-out kinds` evaluates on whole kinds of use instead and writes nothing.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from gateway.classifier.weights import write_model
from training.classifier.evaluate import evaluate
from training.classifier.lines import LINES, read_lines
from training.classifier.train import cross_validate, kind_folds, train, writer_folds


def main() -> None:
    """Command line: write the weights and print the evaluation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FILE.npz", help="output file for the weights")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--lines", type=Path, default=LINES, metavar="FOLDER", help="lines to train on")
    parser.add_argument("--leave-out", choices=["writers", "kinds"], default="writers", help="what a fold leaves out")
    options = parser.parse_args()
    if (options.out is None) == (options.leave_out == "writers"):
        parser.error("--out is required, except with --leave-out kinds, which writes no weights")
    torch.set_num_threads(1)
    started = time.monotonic()
    lines = list(read_lines(options.lines))
    found = cross_validate(lines, folds=writer_folds(lines) if options.out else kind_folds(lines))
    figures = evaluate(found)
    if options.out:
        write_model(train(lines, divisor=found.divisor), options.out)
        figures["bytes"] = options.out.stat().st_size
    figures["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
