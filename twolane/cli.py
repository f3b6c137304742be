"""The `twolane` command: finds the part a person asked for and hands over the rest of the line.

Each part is imported only when it is asked for: `twolane serve` runs on a machine without torch.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, metadata

from twolane.process.flags import WRONG_USE

Main = Callable[[list[str]], int]

# command -> (module, whether its parser wants the command's own name too, what it does)
COMMANDS: Mapping[str, tuple[str, bool, str]] = {
    "init": ("twolane.init.command", False, "write and validate a policy for your own models"),
    "serve": ("gateway.cli", True, "run the gateway: one endpoint in front of the lanes"),
    "worker": ("diffusion_worker.cli", False, "run a diffusion worker: --checkpoint DIR_OR_HUB_ID"),
    "quality": ("twolane.quality", False, "run a small quality lane (SmolLM2) on loopback"),
    "policy": ("gateway.cli", True, "check, explain, simulate and compare policies"),
    "keys": ("twolane.keys", False, "make a key for whoever may ask"),
    "demo": ("twolane.demo.command", False, "start all three and send a tour of requests through them"),
    "bench": ("twolane.bench.command", False, "load an endpoint on a schedule and tell what its clients felt"),
    "tune": ("twolane.tune.command", False, "find the settings of a live worker that serve your prompts best"),
    "chaos": ("twolane.chaos.command", False, "break workers, gateways and Redis under load, and count what was lost"),
    "faults": ("twolane.fault_proxy.proxy", False, "run a proxy that spoils answers on demand"),
}
OWN_PACKAGES = ("gateway", "diffusion_worker", "twolane")  # no extra adds a module of these

# command -> the extra of pyproject.toml that adds what it imports; any other command needs no extra
EXTRAS: Mapping[str, str] = {
    "worker": "worker",
    "quality": "demo",
    "demo": "demo",
    "bench": "load",
    "tune": "load",
    "chaos": "demo",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 good, 1 the work failed, 2 wrong use or configuration."""
    line = sys.argv[1:] if argv is None else argv
    name, rest = (line[0], line[1:]) if line else ("--help", [])
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name in ("-V", "--version"):
        print(f"twolane {version()}")
        return 0
    if name not in COMMANDS:
        print(f"twolane: no command {name!r} (there are: {', '.join(COMMANDS)})", file=sys.stderr)
        return WRONG_USE
    return _run(name, rest)


def usage() -> str:
    """Return the help text: one line per command."""
    lines = [f"  {name:<9}{does}" for name, (_, _, does) in COMMANDS.items()]
    return "\n".join(
        [
            "twolane: one OpenAI-style endpoint, a fast diffusion lane and a quality lane behind it.",
            "",
            "usage: twolane COMMAND [OPTIONS]   (twolane COMMAND --help tells more)",
            "       twolane --version",
            "",
            *lines,
        ]
    )


def version() -> str:
    """Return the installed version, or say that the source tree is used as it lies."""
    try:
        return metadata.version("twolane")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _run(name: str, rest: Sequence[str]) -> int:
    module, keeps_name, _ = COMMANDS[name]
    try:
        command: Main = import_module(module).main
        return command([name, *rest] if keeps_name else list(rest))  # may import the rest of what it needs
    except ModuleNotFoundError as missing:
        if str(missing.name).split(".")[0] in OWN_PACKAGES:
            raise
        print(f"twolane {name}: the package {missing.name} is missing: {_remedy(name)}", file=sys.stderr)
        return WRONG_USE


def _remedy(name: str) -> str:
    return f"pip install 'twolane[{EXTRAS[name]}]'" if name in EXTRAS else "pip install twolane"
