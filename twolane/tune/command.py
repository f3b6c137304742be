"""`twolane tune WORKER_URL --prompts FILE --out FOLDER`: which settings of a live worker serve your prompts best.

Writes trials.json (a run that was interrupted goes on from it), pareto.png, settings.env and policy.yaml.

Exit codes: 0 chosen, 1 nothing could be chosen or it was interrupted, 2 wrong use.
"""

import asyncio
import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from twolane.bench.command import positive, root_url
from twolane.bench.load import Manner
from twolane.bench.plan import Call, Prompt, in_turn, poisson, read_prompts
from twolane.bench.report import check_drawable
from twolane.process.flags import WRONG_USE, OneLineParser, WrongUseError, whole_number
from twolane.tune.plan import KEPT, NAMES, Knobs, Trial, candidates, choose, last_of_each, survivors
from twolane.tune.report import draw, environment_of, policy_of, table
from twolane.tune.trial import Bench, attempt, can_be_judged, look, restored

GOOD: Final = 0
WORK_FAILED: Final = 1
RUNGS: Final = 3
USUAL: Final[Mapping[str, tuple[float, ...]]] = {
    "steps": (4, 8, 16, 32),
    "entropy_bound": (0.03, 0.3, 1.0, 3.0),
    "canvas_length": (32, 64, 128),
    "anchor": (0.0, 0.4, 0.95),
    "max_num_seqs": (1, 2, 4),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for on the command line."""

    manner: Manner
    admin_url: str | None
    prompts: tuple[Prompt, ...]
    choices: Mapping[str, tuple[float, ...]]
    matches: re.Pattern[str] | None
    rate: float
    seconds: float
    trials: int
    seed: int
    loss: float
    p95_ms: float | None
    out: Path

    def calls(self, seconds: float) -> tuple[Call, ...]:
        """The same load for every setting, so that they differ in nothing else."""
        return in_turn(poisson(self.rate, seconds, self.seed), self.prompts, self.seed)

    def fingerprint(self) -> str:
        """Of all that trials depend on: those of another question are not taken over."""
        asked = [
            [dict(prompt.body) | {"expect": prompt.expect} for prompt in self.prompts],
            [self.manner.url, self.manner.model, self.manner.stream, self.rate, self.seed],
            self.matches.pattern if self.matches else None,
        ]
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:12]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    page = Console(highlight=False)
    try:
        wish = parse(sys.argv[1:] if argv is None else argv)
        notebook = Notebook(wish)
        done = asyncio.run(_until_stopped(wish, notebook, page))
        trials = last_of_each(notebook.trials)
        chosen = choose(trials, loss=wish.loss, p95_ms=wish.p95_ms) if done else None
        page.print(table(trials, chosen))
        return _conclude(wish, trials, chosen, page) if done else WORK_FAILED
    except WrongUseError as cause:
        print(f"twolane tune: {cause}", file=sys.stderr)
        return WRONG_USE
    except OSError as fault:
        print(f"twolane tune: cannot write {fault.filename}: {fault.strerror}", file=sys.stderr)
        return WRONG_USE


class Notebook:
    """All trials so far, on disk after each. Raises WrongUseError if the folder holds those of another question."""

    def __init__(self, wish: Wish) -> None:
        self._file = wish.out / "trials.json"
        self._question = wish.fingerprint()
        self.trials: list[Trial] = []
        wish.out.mkdir(parents=True, exist_ok=True)
        if self._file.exists():
            self._read()

    def find(self, knobs: Knobs, seconds: float) -> Trial | None:
        """The trial of these settings under a load so long, if there was one."""
        return next((one for one in self.trials if one.knobs == knobs and one.seconds == seconds), None)

    def add(self, trial: Trial) -> None:
        """Note it; whole or not at all."""
        self.trials.append(trial)
        written = {"question": self._question, "trials": [asdict(one) for one in self.trials]}
        beside = self._file.with_suffix(".part")
        beside.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
        beside.replace(self._file)

    def _read(self) -> None:
        try:
            known = json.loads(self._file.read_text(encoding="utf-8"))
            self.trials = [Trial(**one | {"knobs": Knobs(**one["knobs"])}) for one in known["trials"]]
            same = known["question"] == self._question
        except (OSError, ValueError, KeyError, TypeError) as fault:
            raise WrongUseError(f"{self._file} holds no trials: {fault!r}") from None
        if not same:
            raise WrongUseError(f"{self._file} holds trials of other prompts, rates or models: choose another --out")


async def _until_stopped(wish: Wish, notebook: Notebook, page: Console) -> bool:
    """Whether all trials were made; ctrl-C and SIGTERM end it with the worker as it was found."""
    work = asyncio.create_task(tune(wish, notebook, page))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        page.print("Interrupted: the same command goes on from here.", style="yellow")
        return False
    return True


async def tune(wish: Wish, notebook: Notebook, page: Console) -> None:
    """Halve, rung by rung. Raises WrongUseError if the worker does not do its part."""
    health = await look(wish.manner.url)
    bench = Bench(manner=wish.manner, admin_url=wish.admin_url, most_seqs=health["max_num_seqs"], matches=wish.matches)
    knobs = candidates(_possible(wish, bench), wish.trials, wish.seed)
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    bars = Progress(*columns, console=page, transient=True, disable=not page.is_terminal)
    async with restored(bench):
        for rung in range(RUNGS):
            seconds = wish.seconds * KEPT**rung
            trials = []
            with bars:
                for turned in bars.track(knobs, description=f"{seconds:g} s under each of {len(knobs)} settings"):
                    trial = notebook.find(turned, seconds)
                    if trial is None:
                        trial = await attempt(bench, turned, wish.calls(seconds), seconds)
                        notebook.add(trial)
                    trials.append(trial)
            knobs = survivors(trials)


def _possible(wish: Wish, bench: Bench) -> dict[str, Sequence[float]]:
    """The choices that can be made here: rows need the admin port, an anchor needs texts to edit."""
    edits = any(prompt.body.get("prediction") is not None for prompt in wish.prompts)
    possible: dict[str, Sequence[float]] = dict(wish.choices)
    possible["max_num_seqs"] = [rows for rows in wish.choices.get("max_num_seqs", ()) if rows < bench.most_seqs]
    if bench.admin_url is None or not possible["max_num_seqs"]:
        del possible["max_num_seqs"]
    if not edits:
        possible.pop("anchor", None)
    return possible


def _conclude(wish: Wish, trials: Sequence[Trial], chosen: Trial | None, page: Console) -> int:
    draw(trials, chosen, wish.out / "pareto.png")
    if chosen is None:
        within = "answers anything" if wish.p95_ms is None else f"keeps p95 within {wish.p95_ms:g} ms"
        page.print(f"No setting {within}.", style="bold red")
        return WORK_FAILED
    (wish.out / "settings.env").write_text(environment_of(chosen), encoding="utf-8")
    policy = policy_of(chosen, url=wish.manner.url, model=wish.manner.model)
    (wish.out / "policy.yaml").write_text(policy, encoding="utf-8")
    page.print(f"Chosen: {chosen.knobs}. See settings.env, policy.yaml and pareto.png in {wish.out}.")
    return GOOD


def parse(argv: Sequence[str]) -> Wish:
    """Read the command line. Raises WrongUseError, or exits 2 with one line."""
    parser = OneLineParser(
        prog="twolane tune",
        description="Load a live worker with your prompts under many settings, and choose by p95 and quality.",
        epilog="FILE as for `twolane bench`; each prompt needs `expect` or a schema, or --matches says what is right.",
    )
    parser.add_argument("url", metavar="URL", type=root_url, help="of the worker itself, not of the gateway")
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="an earlier run there goes on")
    parser.add_argument("--admin", type=root_url, metavar="URL", help="its admin port: to try max_num_seqs, too")
    parser.add_argument("--model", default="diffusion", help="(%(default)s)")
    parser.add_argument("--stream", action="store_true", help="ask for streams")
    parser.add_argument("--matches", type=_pattern, metavar="REGEX", help="a right answer matches this as a whole")
    parser.add_argument("--vary", type=_choice, action="append", metavar="NAME=A,B", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--rate", type=positive, default=4.0, metavar="N", help="requests a second (%(default)s)")
    parser.add_argument("--seconds", type=positive, default=5.0, metavar="N", help="of the shortest trial")
    parser.add_argument("--trials", type=whole_number(2), default=18, metavar="N", help="settings (%(default)s)")
    parser.add_argument("--seed", type=whole_number(0), default=1, metavar="N")
    parser.add_argument(
        "--loss", type=_part, default=0.01, metavar="X", help="of quality that is allowed (%(default)s)"
    )
    parser.add_argument("--p95-ms", type=positive, metavar="N", help="what p95 may be at most")
    read = parser.parse_args(argv)
    prompts = read_prompts(read.prompts)
    _refuse_unjudged(prompts, read.matches, read.prompts)
    check_drawable(Path("pareto.png"))
    key = os.environ.get("OPENAI_API_KEY")
    return Wish(
        manner=Manner(url=read.url, model=read.model, stream=read.stream, key=key),
        admin_url=read.admin,
        prompts=prompts,
        choices=dict(read.vary) if read.vary else USUAL,
        matches=read.matches,
        rate=read.rate,
        seconds=read.seconds,
        trials=read.trials,
        seed=read.seed,
        loss=read.loss,
        p95_ms=read.p95_ms,
        out=read.out,
    )


def _refuse_unjudged(prompts: Iterable[Prompt], matches: re.Pattern[str] | None, file: Path) -> None:
    for number, prompt in enumerate(prompts, 1):
        if not can_be_judged(prompt, matches):
            raise WrongUseError(f"{file}: nothing tells a right answer to prompt {number}: `expect`, schema, --matches")


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.DOTALL)
    except re.error as fault:
        raise WrongUseError(f"--matches: {fault}") from None


def _choice(text: str) -> tuple[str, tuple[float, ...]]:
    name, _, values = text.partition("=")
    whole: Any = int if name in ("max_num_seqs", "steps", "canvas_length") else float
    try:
        if name not in NAMES:
            raise ValueError(f"{name!r} is none of {', '.join(NAMES)}")
        return name, tuple(whole(value) for value in values.split(","))
    except ValueError as fault:
        raise WrongUseError(f"--vary {text}: {fault}") from None


def _part(text: str) -> float:
    return 0.0 if text == "0" else positive(text)
