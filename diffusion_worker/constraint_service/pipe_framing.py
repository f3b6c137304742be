"""How a process of ours is asked for work: frames on standard input and output, one job after the other.

A frame is four bytes of length, big-endian, then the content. An answer begins with `+`, or with `-` and is a refusal
as JSON. The process ends when its input does; its alarm bounds every job even if nobody is left to end it, and its
memory is bounded too. Knows nothing of the work.
"""

import json
import resource
import signal
import sys
from collections.abc import Callable
from typing import BinaryIO, Final

from diffusion_worker.errors import InvalidRequest, UnsupportedSchema

LENGTH_BYTES: Final = 4
MEMORY_BYTES: Final = 4 << 30  # of addresses; numpy reserves half a gibibyte before the first job
Work = Callable[[bytes], bytes]


def frame(content: bytes) -> bytes:
    """Content behind its length."""
    return len(content).to_bytes(LENGTH_BYTES, "big") + content


def respond(work: Work, content: bytes) -> bytes:
    """What is said to one job."""
    try:
        return b"+" + work(content)
    except InvalidRequest as error:
        return b"-" + _refusal(error)


def read_refusal(content: bytes) -> InvalidRequest:
    """The error that a refusal stands for."""
    info = json.loads(content)
    if "keyword" not in info:
        return InvalidRequest(info["message"], param=info["param"])
    suffix = f" (`{info['keyword']}` at `#{info['pointer']}`)"
    return UnsupportedSchema(
        info["message"].removesuffix(suffix), keyword=info["keyword"], pointer=info["pointer"], param=info["param"]
    )


def serve(work: Work, source: BinaryIO, sink: BinaryIO, *, limit_s: float = 0.0) -> None:
    """Until the input ends. A job that takes longer than `limit_s` (0: no limit) ends the process."""
    while len(length := source.read(LENGTH_BYTES)) == LENGTH_BYTES:
        content = source.read(int.from_bytes(length, "big"))
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        response = respond(work, content)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        sink.write(frame(response))
        sink.flush()


def run(work: Work) -> None:
    """This process does nothing else. Its one argument is the limit of a job in seconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the parent, which then closes our input
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    serve(work, sys.stdin.buffer, sys.stdout.buffer, limit_s=float(sys.argv[1]))


def _refusal(error: InvalidRequest) -> bytes:
    info = {"message": error.message, "param": error.param}
    if isinstance(error, UnsupportedSchema):
        info |= {"keyword": error.keyword, "pointer": error.pointer}
    return json.dumps(info).encode()
