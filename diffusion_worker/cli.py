"""`twolane worker`: flags to settings, settings to a serving process, errors to exit codes.

`--plan CONFIG` instead prints what a net would take, from its config alone, and ends.

0: served and left when told to, or planned. 2: wrong use, wrong settings or an unusable checkpoint, with one line on
stderr that names the cause. 1, with a traceback: a defect.
"""

import argparse
import contextlib
import json
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

from diffusion_worker.errors import BadSetting, CheckpointError, WorkerError
from diffusion_worker.memory.budget import Plan, plan
from diffusion_worker.settings import read_settings
from twolane.process.bundled import resolve_checkpoint

GOOD, WRONG_USE = 0, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker until it is told to leave, or print a plan; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if any(word.split("=")[0] == "--plan" for word in arguments):
            return _print_plan(arguments)
        settings = read_settings(arguments)
        settings = replace(settings, checkpoint=resolve_checkpoint(settings.checkpoint))
        with contextlib.ExitStack() as sockets:
            public = sockets.enter_context(bind(settings.host, settings.port))
            admin = None
            if settings.admin_port is not None:
                admin = sockets.enter_context(bind(settings.admin_host, settings.admin_port))
            from diffusion_worker.app import serve  # brings torch: neither --help nor a busy port has to wait for it

            serve(settings, public, admin)
    except (BadSetting, CheckpointError) as error:
        print(f"twolane worker: {_one_line(error)}", file=sys.stderr)
        return WRONG_USE
    return GOOD


def bind(host: str, port: int) -> socket.socket:
    """A socket on that address, not yet listening: until the worker can answer, nobody is kept waiting. Raises
    BadSetting naming address and cause."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        listener.close()
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise BadSetting(f"cannot listen on {host} port {port}: {reason}") from error
    return listener


class _PlanParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadSetting(message)


def _plan_parser() -> argparse.ArgumentParser:
    parser = _PlanParser(
        prog="twolane worker",
        description="Print what a checkpoint would take, from its config.json alone; no weights are read.",
        allow_abbrev=False,
    )
    parser.add_argument("--plan", metavar="CONFIG", required=True, help="a config.json, or a folder that holds one")
    parser.add_argument("--memory-limit-bytes", type=_positive, metavar="N", help="weights and contexts together")
    parser.add_argument("--max-context", type=_positive, metavar="N", help="tokens of a slot [default: the net's own]")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="[default: auto, as stored]"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same figures there")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


_positive.__name__ = "whole number"  # what argparse calls it in "invalid whole number value: 'many'"


def _print_plan(arguments: Sequence[str]) -> int:
    asked = _plan_parser().parse_args(arguments)
    from diffusion_worker.models.plan import measure  # brings torch

    found = plan(
        measure(resolve_checkpoint(asked.plan)),
        dtype=asked.dtype,
        memory_limit_bytes=asked.memory_limit_bytes,
        max_context=asked.max_context,
    )
    if asked.json is not None:
        try:
            asked.json.write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise BadSetting(f"--json {asked.json}: {error.strerror or error}") from error
    print("\n".join(_plan_lines(found)))
    return GOOD


def _plan_lines(found: Plan) -> list[str]:
    rows = [
        ("parameters", f"{found.parameters:,}"),
        ("active per token", f"{found.active_parameters:,}"),
        ("canvas length, tokens", f"{found.canvas_length:,}"),
        *((f"weights in {name}, bytes", f"{taken:,}") for name, taken in found.weight_bytes.items()),
        *([("weights as stored, bytes", f"{found.stored_weight_bytes:,}")] if found.stored_weight_bytes else []),
        ("contexts are kept in", found.dtype),
        ("a context token, bytes", f"{found.kv_bytes_per_token:,}"),
        ("past every window, bytes", f"{found.kv_bytes_per_further_token:,}"),
    ]
    if found.memory_limit_bytes is not None:
        rows.append(("memory limit, bytes", f"{found.memory_limit_bytes:,}"))
    lines = [f"{name:<26}{value:>20}" for name, value in rows]
    lines += ["", f"{'context, tokens':>16}{'bytes':>20}{'slots that fit':>18}"]
    for context in found.contexts:
        slots = "-" if context.slots is None else f"{context.slots:,}"
        lines.append(f"{context.tokens:>16,}{context.kv_bytes:>20,}{slots:>18}")
    lines += ["", "Not counted: activations of a step, and what the process takes besides."]
    if found.quantised and found.stored_weight_bytes is None:
        lines.append(f"Quantised by {found.quantised}, in bits that are not declared: the bytes above are without it.")
    elif found.quantised:
        lines.append(f"Slots are those beside the weights as stored, quantised by {found.quantised}.")
    if found.quantised == "compressed-tensors":
        lines.append("transformers unpacks these at the first pass, unless told otherwise: then they take plain bytes.")
    return lines


def _one_line(error: WorkerError) -> str:
    return " ".join(error.message.split())
