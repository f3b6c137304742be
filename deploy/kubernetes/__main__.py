"""`python -m deploy.kubernetes [--check]`: Prometheus's rules as the operator's PrometheusRule, one source for both."""

import sys
from pathlib import Path
from typing import Final

import yaml

HERE: Final = Path(__file__).parent
RULES: Final = HERE.parent / "prometheus" / "rules"
OUT: Final = HERE / "components" / "monitoring" / "rules.yaml"
HEAD: Final = "# Written by `python -m deploy.kubernetes` from deploy/prometheus/rules; edit those files.\n"


def render() -> str:
    """The manifest."""
    groups = [group for file in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(file.read_text())["groups"]]
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "twolane", "namespace": "twolane"},
        "spec": {"groups": groups},
    }
    written: str = yaml.safe_dump(manifest, sort_keys=False, width=120)
    return HEAD + written


def main() -> int:
    """Write the manifest; with --check, only compare it."""
    if sys.argv[1:] == ["--check"]:
        return int(not OUT.exists() or OUT.read_text() != render())
    OUT.write_text(render())
    return 0


if __name__ == "__main__":
    sys.exit(main())
