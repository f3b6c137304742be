"""The trial store of `twolane tune`: every completed trial in one JSON file, from which an interrupted run resumes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from twolane.process.flags import WrongUseError
from twolane.tune.plan import Parameters, Trial


class TrialStore:
    """All trials so far, written after each. Raises WrongUseError if the folder holds trials of other inputs."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._file = folder / "trials.json"
        self._fingerprint = fingerprint
        self.trials: list[Trial] = []
        folder.mkdir(parents=True, exist_ok=True)
        if self._file.exists():
            self._read()

    def find(self, parameters: Parameters, seconds: float) -> Trial | None:
        """Return the trial of these parameters with this duration, if there is one."""
        return next((one for one in self.trials if one.parameters == parameters and one.seconds == seconds), None)

    def add(self, trial: Trial) -> None:
        """Append a trial and replace the file atomically."""
        self.trials.append(trial)
        content = {"fingerprint": self._fingerprint, "trials": [asdict(one) for one in self.trials]}
        partial = self._file.with_suffix(".part")
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._file)

    def _read(self) -> None:
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            self.trials = [_trial(one) for one in content["trials"]]
            same = content["fingerprint"] == self._fingerprint
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise WrongUseError(f"{self._file} is not a file of trials: {cause!r}") from None
        if not same:
            raise WrongUseError(f"{self._file} holds trials of other prompts, rates or models: choose another --out")


def _trial(fields: dict[str, Any]) -> Trial:
    judged = tuple((float(confidence), bool(is_right)) for confidence, is_right in fields.get("judged", ()))
    return Trial(**fields | {"parameters": Parameters(**fields["parameters"]), "judged": judged})
