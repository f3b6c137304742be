"""The links of alerts: the base URLs of runbooks and of Grafana, in the shipped rules and in copies of them."""

from pathlib import Path
from typing import Final

RULES: Final = Path(__file__).parent / "rules"
RUNBOOKS: Final = "https://github.com/twolane/twolane/blob/main/docs/operations/runbooks.md"
GRAFANA: Final = "http://127.0.0.1:3000"


def linked(text: str, *, runbooks: str = RUNBOOKS, grafana: str | None = GRAFANA) -> str:
    """Rules whose alerts link to these addresses; without Grafana they have no `dashboard_url`."""
    lines = []
    for line in text.splitlines():
        if line.lstrip().startswith("dashboard_url:"):
            if grafana is None:
                continue
            line = line.replace(f"{GRAFANA}/", f"{grafana.rstrip('/')}/")  # noqa: PLW2901 - the line to keep
        lines.append(line.replace(f"runbook_url: {RUNBOOKS}#", f"runbook_url: {runbooks}#"))
    return "\n".join(lines) + "\n"
