"""`python -m deploy.kubernetes [--check]`: Prometheus's rules as the operator's PrometheusRule, one source for both."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml

from deploy.prometheus.__main__ import add_links
from deploy.prometheus.links import RULES, RUNBOOKS, linked

HERE: Final = Path(__file__).parent
OUT: Final = HERE / "components" / "monitoring" / "rules.yaml"
HEAD: Final = "# Written by `python -m deploy.kubernetes` from deploy/prometheus/rules; edit those files.\n"


def render(runbooks: str = RUNBOOKS, grafana: str | None = None) -> str:
    """The manifest, with links to these addresses."""
    texts = [linked(file.read_text(), runbooks=runbooks, grafana=grafana) for file in sorted(RULES.glob("*.yml"))]
    groups = [group for text in texts for group in yaml.safe_load(text)["groups"]]
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "twolane", "namespace": "twolane"},
        "spec": {"groups": groups},
    }
    written: str = yaml.safe_dump(manifest, sort_keys=False, width=120)
    return HEAD + written


def main(argv: Sequence[str] | None = None) -> int:
    """Write the manifest; with --check, only compare it."""
    parser = argparse.ArgumentParser(prog="python -m deploy.kubernetes", description="Write the PrometheusRule.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if the file is not up to date")
    add_links(parser, grafana=None)
    read = parser.parse_args(argv)
    text = render(read.runbooks, read.grafana)
    if read.check:
        return int(not OUT.exists() or OUT.read_text() != text)
    OUT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
