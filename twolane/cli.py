"""The `twolane` command: dispatches to its subcommands.

A subcommand's module is imported only when it is used: `twolane serve` runs on a machine without torch.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from twolane.process.errors import WRONG_USE

Main = Callable[[list[str]], int]

# command -> (module, whether its parser expects the command's own name, help)
COMMANDS: Mapping[str, tuple[str, bool, str]] = {
    "init": ("twolane.init.command", False, "write and validate a policy for your own models"),
    "serve": ("gateway.serve_command", True, "run the gateway"),
    "worker": ("diffusion_worker.cli", False, "run a diffusion worker"),
    "weights": ("twolane.fetch", False, "download a checkpoint, resumably, and verify it"),
    "quality": ("twolane.quality", False, "run a small quality server (SmolLM2-135M) on loopback"),
    "policy": ("gateway.cli", True, "check, explain, simulate and compare policies"),
    "classifier": ("twolane.classifier", False, "train the task classifier on your own requests"),
    "admin": ("twolane.admin.command", False, "ask a running gateway or worker over its admin port"),
    "keys": ("twolane.keys", False, "create an API key"),
    "demo": ("twolane.demo.command", False, "start worker, quality server and gateway, and send sample requests"),
    "bench": ("twolane.bench.command", False, "send an open-loop load and report client-side latency"),
    "tune": ("twolane.tune.command", False, "find the best parameters of a live worker for your prompts"),
    "chaos": ("twolane.chaos.command", False, "inject faults into workers, gateways and Redis under load"),
    "faults": ("twolane.fault_proxy.proxy", False, "run a proxy that corrupts, delays or rejects responses"),
}
OWN_PACKAGES = ("gateway", "diffusion_worker", "twolane", "training")  # part of every installation

# command -> the extra of pyproject.toml that it requires; other commands require none
EXTRAS: Mapping[str, str] = {
    "worker": "worker",
    "weights": "worker",
    "quality": "demo",
    "classifier": "worker",
    "demo": "demo",
    "bench": "load",
    "tune": "load",
    "chaos": "demo",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 success, 1 failure, 2 wrong use or configuration."""
    line = sys.argv[1:] if argv is None else argv
    name, rest = (line[0], line[1:]) if line else ("--help", [])
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name in ("-V", "--version"):
        print(f"twolane {version()}")
        return 0
    if name not in COMMANDS:
        print(f"twolane: unknown command {name!r} (choose from {', '.join(COMMANDS)})", file=sys.stderr)
        return WRONG_USE
    return _run(name, rest)


def usage() -> str:
    """Return the help text: one line per command."""
    lines = [f"  {name:<10} {description}" for name, (_, _, description) in COMMANDS.items()]
    return "\n".join(
        [
            "twolane: one OpenAI-compatible endpoint in front of a text-diffusion worker and any autoregressive model.",
            "",
            "usage: twolane COMMAND [OPTIONS]   (see twolane COMMAND --help)",
            "       twolane --version",
            "",
            *lines,
        ]
    )


def version() -> str:
    """Return the installed version, or `(not installed)` in a source tree."""
    from importlib import metadata

    try:
        return metadata.version("twolane")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _run(name: str, rest: Sequence[str]) -> int:
    module, expects_name, _ = COMMANDS[name]
    try:
        command: Main = import_module(module).main
        return command([name, *rest] if expects_name else list(rest))  # may import further packages
    except ModuleNotFoundError as missing:
        if str(missing.name).split(".")[0] in OWN_PACKAGES:
            raise
        print(f"twolane {name}: the package {missing.name} is missing: {_remedy(name)}", file=sys.stderr)
        return WRONG_USE


def _remedy(name: str) -> str:
    return f"pip install 'twolane[{EXTRAS[name]}]'" if name in EXTRAS else "pip install twolane"
