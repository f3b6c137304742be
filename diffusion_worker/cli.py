"""`twolane worker`: the command line of the worker.

`--plan CONFIG` prints the memory plan of a model from its config alone, and exits.

Exit codes: 0, shut down by a signal, or plan printed; 2, invalid usage, settings or checkpoint, with one line on stderr
that names the cause; 3, the device failed or hangs and cannot be used by this process again: a supervisor should
restart the worker; 1, with a traceback, a defect.
"""

import argparse
import contextlib
import gc
import json
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from diffusion_worker.constraints.inference.scratch import IN_USE, KEPT
from diffusion_worker.errors import BadSetting, CheckpointError, DeviceFailed, DeviceHangs
from diffusion_worker.memory.plan import ContextPlan, Plan, PlanOptions, plan
from diffusion_worker.models.checkpoint_source import require
from diffusion_worker.settings import Settings, read_settings
from twolane.process.bundled import resolve_checkpoint
from twolane.process.errors import WRONG_USE, ConfigurationError
from twolane.process.flags import OneLineParser
from twolane.process.sockets import bind

GOOD = 0
DEVICE_FAILED = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker until a signal arrives, or print a plan; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if any(word.split("=")[0] == "--plan" for word in arguments):
            return _print_plan(arguments)
        settings = read_settings(arguments)
        settings = replace(settings, checkpoint=resolve_checkpoint(settings.checkpoint))
        with contextlib.ExitStack() as sockets:
            public = sockets.enter_context(bind(settings.host, settings.port, setting="--port (TWOLANE_WORKER_PORT)"))
            admin = None
            if settings.admin_port is not None:
                named = "--admin-port (TWOLANE_WORKER_ADMIN_PORT)"
                admin = sockets.enter_context(bind(settings.admin_host, settings.admin_port, setting=named))
            require(settings.checkpoint, settings.revision)
            _serve(settings, public, admin)
    except (BadSetting, CheckpointError, ConfigurationError) as error:
        print(f"twolane worker: {' '.join(str(error).split())}", file=sys.stderr)
        return WRONG_USE
    except DeviceFailed as error:
        print(f"twolane worker: {' '.join(str(error).split())}", file=sys.stderr)
        if isinstance(error, DeviceHangs):
            _leave_at_once()
        return DEVICE_FAILED
    return GOOD


def _leave_at_once() -> None:
    """End the process without its finalisers: those of a device that hangs would wait for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(DEVICE_FAILED)


def _serve(settings: Settings, public: socket.socket, admin: socket.socket | None) -> None:
    """Import the server, with torch, which --help and a busy port need not wait for, and run it.

    Modules live as long as the process: collections during their import are a seventh of its time, and collections
    after it need not traverse them."""
    gc.disable()
    from diffusion_worker.app import serve

    gc.freeze()
    gc.enable()
    serve(settings, public, admin)


def _plan_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="twolane worker",
        description="Print the memory plan of a model from its config.json alone, without reading weights.",
        allow_abbrev=False,
    )
    parser.add_argument("--plan", metavar="CONFIG", required=True, help="config.json, or a folder that contains one")
    parser.add_argument(
        "--memory-limit-bytes",
        type=_positive,
        metavar="N",
        help="memory for weights, contexts and steps, e.g. a card's",
    )
    parser.add_argument(
        "--max-context", type=_positive, metavar="N", help="context length in tokens (default: the model's maximum)"
    )
    parser.add_argument(
        "--max-num-seqs",
        type=_positive,
        metavar="N",
        default=8,
        help="maximum number of sequences in a batch (default: %(default)s)",
    )
    parser.add_argument(
        "--max-prefill-tokens",
        type=_positive,
        metavar="N",
        default=2048,
        help="maximum prompt tokens per step, over all requests (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="format of weights and contexts (default: auto, as stored)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


_positive.__name__ = "whole number"  # what argparse calls it in "invalid whole number value: 'many'"


def _print_plan(arguments: Sequence[str]) -> int:
    options = _plan_parser().parse_args(arguments)
    from diffusion_worker.models.plan import measure  # imports torch

    found = plan(
        measure(resolve_checkpoint(options.plan)),
        PlanOptions(
            dtype=options.dtype,
            memory_limit_bytes=options.memory_limit_bytes,
            max_context=options.max_context,
            max_num_seqs=options.max_num_seqs,
            max_prefill_tokens=options.max_prefill_tokens,
        ),
    )
    if options.json is not None:
        try:
            options.json.write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise BadSetting(f"--json {options.json}: {error.strerror or error}") from error
    print("\n".join(_plan_lines(found)))
    return GOOD


def _plan_lines(found: Plan) -> list[str]:
    rows = [
        ("parameters", f"{found.parameters:,}"),
        ("active per token", f"{found.active_parameters:,}"),
        ("canvas length, tokens", f"{found.canvas_length:,}"),
        *((f"weights in {name}, bytes", f"{taken:,}") for name, taken in found.weight_bytes.items()),
        *([("weights as stored, bytes", f"{found.stored_weight_bytes:,}")] if found.stored_weight_bytes else []),
        ("context dtype", found.dtype),
        ("bytes per context token", f"{found.kv_bytes_per_token:,}"),
        ("bytes per token past windows", f"{found.kv_bytes_per_further_token:,}"),
        ("constraints (host), bytes", f"{IN_USE:,}"),
        ("of these kept, bytes", f"{KEPT:,}"),
    ]
    if found.memory_limit_bytes is not None:
        rows.append(("memory limit, bytes", f"{found.memory_limit_bytes:,}"))
        rows.append(("reserve, bytes", f"{found.reserve_bytes:,}"))
        rows.append(("default context, tokens", f"{found.default_context:,}" if found.default_context else "none fits"))
    lines = [f"{name:<28}{value:>20}" for name, value in rows]
    lines += ["", f"{'context, tokens':>16}{'bytes':>20}{'step, bytes':>20}{'slots that fit':>18}"]
    lines += [_context_line(context) for context in found.contexts]
    lines += [
        "",
        f"A step has {found.max_num_seqs} sequences, each with a canvas, and {found.max_prefill_tokens} prompt tokens.",
        "Not included: other memory of the process.",
    ]
    if found.quantised and found.stored_weight_bytes is None:
        lines.append(f"Quantised by {found.quantised} without declared bits: the figures above are unquantised.")
    elif found.quantised:
        lines.append(f"Slots are computed next to the weights as stored, quantised by {found.quantised}.")
    if found.stays_packed:
        lines.append("They stay packed in memory; a step counts the weights that are unpacked at a time.")
    elif found.quantised == "compressed-tensors":
        lines.append(
            "By default, transformers decompresses these in the first pass; they then take their unquantised size."
        )
    return lines


def _context_line(context: ContextPlan) -> str:
    slots = "-" if context.slots is None else f"{context.slots:,}"
    return f"{context.tokens:>16,}{context.kv_bytes:>20,}{context.step_bytes:>20,}{slots:>18}"
