"""Every metric name that a query may use: exported by the programs, recorded by rules, or added by Prometheus."""

from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from diffusion_worker.telemetry import metrics as worker_metrics
from gateway.telemetry import metric_names

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
OF_PROMETHEUS = {"up", "scrape_duration_seconds"} | {  # and of kube-state-metrics
    f"kube_horizontalpodautoscaler_{name}_replicas" for name in ("status_current", "spec_max")
}


def rules(kind: str) -> list[dict[str, object]]:
    """All rules that have this key: `alert` or `record`."""
    return [rule for rule in read_rules(RULES) if kind in rule]


def read_rules(files: list[Path]) -> list[dict[str, Any]]:
    """All rules of these files."""
    groups = [group for file in files for group in YAML(typ="safe").load(file)["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def metrics() -> set[str]:
    """Names in the programs' own lists."""
    return {value for module in (metric_names, worker_metrics) for value in vars(module).values() if _is_metric(value)}


@cache
def exported() -> frozenset[str]:
    """Exported names, including the component series of histograms."""
    found = metrics()
    return frozenset(found | {name + end for name in found for end in ("_bucket", "_sum", "_count")})


@cache
def recorded() -> frozenset[str]:
    """Names that recording rules create."""
    return frozenset(str(rule["record"]) for rule in rules("record"))


def _is_metric(value: object) -> bool:
    return isinstance(value, str) and value.startswith(("twolane_", "gen_ai_"))
