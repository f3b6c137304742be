"""Pipe framing: the request-response protocol of the compiler and validator processes on standard input and output.

A frame is four bytes of length, big-endian, then the content. A job starts with four bytes of its limit of processor
time in microseconds; 0 is none. A job that exceeds it ends the process by SIGPROF, whatever it is doing: unlike
elapsed time, this does not depend on how busy the machine is. A response starts with `+`, or with `-` and an error as
JSON. An empty job shows that the process has started. The process ends when its input does. An alarm limits every job
even if the parent is gone, and memory is limited too.
"""

import json
import resource
import signal
import sys
from collections.abc import Callable
from typing import BinaryIO, Final

from diffusion_worker.errors import InvalidRequest, UnsupportedSchema

LENGTH_BYTES: Final = 4
TOO_LONG: Final = -signal.SIGPROF  # the exit status of a process whose job exceeded its processor time
MEMORY_BYTES: Final = 4 << 30  # of address space; numpy reserves half a GiB before the first job
Work = Callable[[bytes], bytes]


def frame(content: bytes) -> bytes:
    """Content preceded by its length."""
    return len(content).to_bytes(LENGTH_BYTES, "big") + content


def job_frame(job: bytes, cpu_s: float) -> bytes:
    """A job with its limit of processor time in seconds; 0: none."""
    return frame(round(cpu_s * 1e6).to_bytes(LENGTH_BYTES, "big") + job)


def respond(work: Work, content: bytes) -> bytes:
    """The response to one job; an empty one is only answered."""
    if not content:
        return b"+"
    try:
        return b"+" + work(content)
    except InvalidRequest as error:
        return b"-" + _refusal(error)


def read_refusal(content: bytes) -> InvalidRequest:
    """Deserialise an error."""
    info = json.loads(content)
    if "keyword" not in info:
        return InvalidRequest(info["message"], param=info["param"])
    suffix = f" (`{info['keyword']}` at `#{info['pointer']}`)"
    return UnsupportedSchema(
        info["message"].removesuffix(suffix), keyword=info["keyword"], pointer=info["pointer"], param=info["param"]
    )


def serve(work: Work, source: BinaryIO, sink: BinaryIO, *, limit_s: float = 0.0) -> None:
    """Serve until the input ends. A job that takes longer than `limit_s` (0: no limit) ends the process."""
    while len(length := source.read(LENGTH_BYTES)) == LENGTH_BYTES:
        cpu_us = int.from_bytes(source.read(LENGTH_BYTES), "big")
        content = source.read(int.from_bytes(length, "big") - LENGTH_BYTES)
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        signal.setitimer(signal.ITIMER_PROF, cpu_us / 1e6)
        response = respond(work, content)
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        sink.write(frame(response))
        sink.flush()


def run(work: Work) -> None:
    """The main function of the process. Its argument is the limit of a job's elapsed time in seconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and closes our input
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    serve(work, sys.stdin.buffer, sys.stdout.buffer, limit_s=float(sys.argv[1]))


def _refusal(error: InvalidRequest) -> bytes:
    info = {"message": error.message, "param": error.param}
    if isinstance(error, UnsupportedSchema):
        info |= {"keyword": error.keyword, "pointer": error.pointer}
    return json.dumps(info).encode()
