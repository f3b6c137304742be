"""`twolane tune WORKER_URL --prompts FILE --out FOLDER`: find the best parameters of a live worker for your prompts.

Writes trials.json (from which an interrupted run resumes), pareto.png, settings.env and policy.yaml.

Exit codes: 0 parameters chosen, 1 no parameters qualify or interrupted, 2 wrong use.
"""

import asyncio
import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from twolane.bench.command import positive, root_url, share
from twolane.bench.load import LoadOptions
from twolane.bench.plan import Call, Prompt, poisson, read_prompts, schedule
from twolane.bench.report import check_drawable
from twolane.process.errors import WRONG_USE
from twolane.process.flags import OneLineParser, WrongUseError, whole_number
from twolane.tune.plan import NAMES, PROMOTION, Trial, candidates, choose, longest_of_each, promoted
from twolane.tune.report import draw, environment_of, policy_of, table
from twolane.tune.store import TrialStore
from twolane.tune.threshold import MIN_ANSWERS, find_threshold
from twolane.tune.trial import TunedWorker, has_correct_response, read_health, read_offer, restored, run_trial

GOOD: Final = 0
WORK_FAILED: Final = 1
ROUNDS: Final = 3
DEFAULT_GRID: Final[Mapping[str, tuple[float, ...]]] = {
    "steps": (4, 8, 16),  # at most the checkpoint's own number
    "entropy_bound": (0.03, 0.3, 1.0, 3.0),
    "confidence_threshold": (0.02, 0.1),
    "canvas_length": (32, 64, 128),
    "anchor": (0.0, 0.4, 0.95),
    "max_num_seqs": (1, 2, 4),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    load: LoadOptions
    admin_url: str | None
    prompts: tuple[Prompt, ...]
    grid: Mapping[str, tuple[float, ...]]
    matches: re.Pattern[str] | None
    rate: float
    seconds: float
    trials: int
    seed: int
    is_varied: bool  # `grid` is the user's
    loss: float
    p95_ms: float | None
    precision: float
    out: Path

    def calls(self, seconds: float) -> tuple[Call, ...]:
        """Return the load, which is the same for all parameters."""
        return schedule(poisson(self.rate, seconds, self.seed), self.prompts, self.seed)

    def fingerprint(self) -> str:
        """Return a hash of all inputs: stored trials of other inputs are not reused."""
        inputs = [
            [dict(prompt.body) | {"expect": prompt.expect} for prompt in self.prompts],
            [self.load.url, self.load.model, self.load.stream, self.rate, self.seed],
            self.matches.pattern if self.matches else None,
        ]
        return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:12]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    console = Console(highlight=False)
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        store = TrialStore(options.out, options.fingerprint())
        done = asyncio.run(_until_stopped(options, store, console))
        trials = longest_of_each(store.trials)
        chosen = choose(trials, loss=options.loss, p95_ms=options.p95_ms) if done else None
        console.print(table(trials, chosen))
        return _write_results(options, trials, chosen, console) if done else WORK_FAILED
    except WrongUseError as cause:
        print(f"twolane tune: {cause}", file=sys.stderr)
        return WRONG_USE
    except OSError as error:
        print(f"twolane tune: cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return WRONG_USE


async def _until_stopped(options: Options, store: TrialStore, console: Console) -> bool:
    """Return whether the search completed; ctrl-C and SIGTERM stop it and restore the worker."""
    task = asyncio.create_task(tune(options, store, console))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        console.print("Interrupted: run the same command to resume.", style="yellow")
        return False
    return True


async def tune(options: Options, store: TrialStore, console: Console) -> None:
    """Run the successive halving. Raises WrongUseError if the worker fails."""
    health = await read_health(options.load.url)
    worker = TunedWorker(
        load=options.load,
        admin_url=options.admin_url,
        max_num_seqs=health["max_num_seqs"],
        matches=options.matches,
    )
    offer = await read_offer(options.load)
    grid = _usable_grid(options, worker, offer.canvas_length)
    modes = () if options.is_varied else offer.modes
    remaining = candidates(grid, options.trials, options.seed, modes=modes)
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    async with restored(worker):
        for number in range(ROUNDS):
            seconds = options.seconds * PROMOTION**number
            trials = []
            with bars:
                description = f"round {number + 1} of {ROUNDS}: {len(remaining)} candidates, {seconds:g} s each"
                for parameters in bars.track(remaining, description=description):
                    trial = store.find(parameters, seconds)
                    if trial is None:
                        trial = await run_trial(worker, parameters, options.calls(seconds), seconds)
                        store.add(trial)
                    trials.append(trial)
            remaining = promoted(trials)


def _usable_grid(options: Options, worker: TunedWorker, canvas_length: int | None) -> dict[str, Sequence[float]]:
    """The grid without `max_num_seqs` if there is no admin port, without `anchor` if no prompt is an edit, and without
    canvases longer than the checkpoint's, which the worker refuses."""
    edits = any(prompt.body.get("prediction") is not None for prompt in options.prompts)
    grid: dict[str, Sequence[float]] = dict(options.grid)
    grid["max_num_seqs"] = [value for value in options.grid.get("max_num_seqs", ()) if value < worker.max_num_seqs]
    if worker.admin_url is None:
        del grid["max_num_seqs"]
    if not edits:
        grid.pop("anchor", None)
    if canvas_length is not None and "canvas_length" in grid:
        grid["canvas_length"] = [value for value in grid["canvas_length"] if value <= canvas_length]
    return {name: values for name, values in grid.items() if values}


def _write_results(options: Options, trials: Sequence[Trial], chosen: Trial | None, console: Console) -> int:
    draw(trials, chosen, options.out / "pareto.png")
    if chosen is None:
        reason = (
            "No request succeeded." if options.p95_ms is None else f"No trial has a p95 within {options.p95_ms:g} ms."
        )
        console.print(reason, style="bold red")
        return WORK_FAILED
    (options.out / "settings.env").write_text(environment_of(chosen), encoding="utf-8")
    threshold = find_threshold(chosen.judged, precision=options.precision)
    console.print(str(threshold) if threshold else f"No min_confidence: {_without_threshold(chosen, options)}.")
    policy = policy_of(chosen, url=options.load.url, model=options.load.model, threshold=threshold)
    (options.out / "policy.yaml").write_text(policy, encoding="utf-8")
    console.print(f"Chosen: {chosen.parameters}. Wrote settings.env, policy.yaml and pareto.png to {options.out}.")
    return GOOD


def _without_threshold(chosen: Trial, options: Options) -> str:
    if len(chosen.judged) < MIN_ANSWERS:
        return f"fewer than {MIN_ANSWERS} answers had a confidence (lengthen the trials with --seconds or --rate)"
    return f"none reaches a precision of {options.precision:.0%} with these prompts"


def parse(argv: Sequence[str]) -> Options:
    """Parse the command line. Raises WrongUseError, or exits with code 2 and one line."""
    parsed = _parser().parse_args(argv)
    prompts = read_prompts(parsed.prompts)
    _require_correct_responses(prompts, parsed.matches, parsed.prompts)
    check_drawable(Path("pareto.png"))
    key = os.environ.get("OPENAI_API_KEY")
    return Options(
        load=LoadOptions(url=parsed.url, model=parsed.model, stream=parsed.stream, key=key),
        admin_url=parsed.admin,
        prompts=prompts,
        grid=dict(parsed.vary) if parsed.vary else DEFAULT_GRID,
        is_varied=bool(parsed.vary),
        matches=parsed.matches,
        rate=parsed.rate,
        seconds=parsed.seconds,
        trials=parsed.trials,
        seed=parsed.seed,
        loss=parsed.loss,
        p95_ms=parsed.p95_ms,
        precision=parsed.precision,
        out=parsed.out,
    )


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="twolane tune",
        description="Load a live worker with your prompts under many parameters, and choose the best by p95 latency "
        "and quality.",
        epilog="FILE has the format of `twolane bench`. Every prompt needs a correct response to compare with: "
        "`expect`, a schema, or --matches. The API key is read from OPENAI_API_KEY.",
    )
    parser.add_argument("url", metavar="URL", type=root_url, help="URL of the worker itself, not of the gateway")
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="requests to send, as JSON Lines")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="output folder (resumes an earlier run)"
    )
    parser.add_argument("--admin", type=root_url, metavar="URL", help="the worker's admin port, to vary max_num_seqs")
    parser.add_argument("--model", default="diffusion", help="model to request (default: %(default)s)")
    parser.add_argument("--stream", action="store_true", help="request streams")
    parser.add_argument(
        "--matches", type=_pattern, metavar="REGEX", help="a correct response matches this pattern completely"
    )
    parser.add_argument(
        "--vary",
        type=_values,
        action="append",
        metavar="NAME=A,B",
        help="values to try, instead of the default grid and the decoding modes; NAME is one of "
        f"{', '.join(NAMES)}; repeatable",
    )
    parser.add_argument(
        "--rate", type=positive, default=4.0, metavar="N", help="requests per second (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds",
        type=positive,
        default=5.0,
        metavar="N",
        help="duration of the shortest trials (default: %(default)s)",
    )
    parser.add_argument(
        "--trials",
        type=whole_number(2),
        default=18,
        metavar="N",
        help="candidates in the first round (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=1, metavar="N", help="random seed (default: %(default)s)"
    )
    parser.add_argument(
        "--loss", type=_share, default=0.01, metavar="X", help="maximum loss of quality, 0 to 1 (default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        type=share,
        default=0.95,
        metavar="X",
        help="precision that `min_confidence` must reach, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument("--p95-ms", type=positive, metavar="N", help="maximum p95 latency in milliseconds")
    return parser


def _require_correct_responses(prompts: Iterable[Prompt], matches: re.Pattern[str] | None, file: Path) -> None:
    for number, prompt in enumerate(prompts, 1):
        if not has_correct_response(prompt, matches):
            raise WrongUseError(f"{file}: prompt {number} needs `expect` or a schema, or use --matches")


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.DOTALL)
    except re.error as error:
        raise WrongUseError(f"--matches: {error}") from None


def _values(text: str) -> tuple[str, tuple[float, ...]]:
    name, _, values = text.partition("=")
    number: Any = int if name in ("max_num_seqs", "steps", "canvas_length") else float
    try:
        if name not in NAMES:
            raise ValueError(f"unknown parameter {name!r} (choose from {', '.join(NAMES)})")
        return name, tuple(number(value) for value in values.split(","))
    except ValueError as error:
        raise WrongUseError(f"--vary {text}: {error}") from None


def _share(text: str) -> float:
    return 0.0 if text == "0" else share(text)
