"""`twolane serve`. Its modules are imported when they are needed: the parent of several processes imports no server."""

import argparse
import gc
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from gateway.errors import CannotStart
from gateway.settings import SCHEMA, Settings, read_settings
from twolane.process import bundled
from twolane.process.errors import WRONG_USE, ConfigurationError
from twolane.process.flags import OneLineParser
from twolane.process.settings import SettingsHelp

SUCCESS: Final = 0


def main(argv: Sequence[str]) -> int:
    """Serve, with `argv` from the command's own name on, and return the exit code: 2 for wrong use or configuration,
    with one line on stderr that names the cause."""
    try:
        return _serve(_parser().parse_args(argv[1:]))
    except (CannotStart, ConfigurationError) as error:
        print(f"twolane serve: {error}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        return SUCCESS


def with_policy(given: Mapping[str, str]) -> Mapping[str, str]:
    """Add the packaged default policy, if no policy is set and the working directory has no default one."""
    default = read_settings(os.environ, given).policy
    if "policy" in given or os.environ.get("TWOLANE_POLICY") or default.is_file():
        return given
    shipped = bundled.policy(bundled.DEFAULT_POLICY)
    print(f"twolane: {default} not found; using the packaged default policy {shipped}", file=sys.stderr)
    return {**given, "policy": str(shipped)}


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="twolane serve",
        usage="twolane serve [OPTIONS]",
        description="Run the gateway until SIGTERM. SIGHUP reloads the policy.",
        epilog="Each option can also be set by the environment variable in brackets; the option takes precedence.",
        formatter_class=SettingsHelp,
        allow_abbrev=False,
    )
    SCHEMA.add_flags(parser)
    return parser


def _serve(options: argparse.Namespace) -> int:
    flags = with_policy(SCHEMA.flags_in(options))
    settings = read_settings(os.environ, flags)
    if settings.workers > 1:
        from gateway.server.supervisor import run_supervised

        kept = {name: value for name, value in flags.items() if name != "workers"}
        return run_supervised(settings, ["serve", *SCHEMA.command_line(kept)])
    return _serve_alone(settings)


def _serve_alone(settings: Settings) -> int:
    """Import the server without collections, which would find nothing: modules live as long as the process."""
    gc.disable()
    import asyncio

    import uvloop

    from gateway.app import serve

    gc.enable()
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    with _logging(settings), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))
    return SUCCESS


def _logging(settings: Settings) -> AbstractContextManager[None]:
    if settings.log == "json":
        from twolane.process.json_log import json_lines

        return json_lines(sys.stderr)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return nullcontext()
