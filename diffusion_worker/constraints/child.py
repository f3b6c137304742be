"""The process that compiles: `python -m diffusion_worker.constraints.child`, one constraint after the other.

Frames on standard input and output: four bytes of length, big-endian, then the content. In: a constraint as JSON.
Out: `C` and a compiled automaton, or `E` and a refusal as JSON. It ends when its input does, so it never outlives its
parent.
"""

import json
import sys
from typing import BinaryIO

from diffusion_worker.constraints.compile import compile_constraint
from diffusion_worker.constraints.constraint import Constraint
from diffusion_worker.constraints.store import to_bytes
from diffusion_worker.errors import BadAsk, UnsupportedSchema

LENGTH_BYTES = 4


def frame(content: bytes) -> bytes:
    """Content behind its length."""
    return len(content).to_bytes(LENGTH_BYTES, "big") + content


def answer(content: bytes) -> bytes:
    """What the child says to one constraint."""
    try:
        return b"C" + to_bytes(compile_constraint(Constraint(**json.loads(content))))
    except UnsupportedSchema as error:
        refusal = {"message": error.message, "param": error.param, "keyword": error.keyword, "pointer": error.pointer}
        return b"E" + json.dumps(refusal).encode()
    except BadAsk as error:
        return b"E" + json.dumps({"message": error.message, "param": error.param}).encode()


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Until the input ends."""
    while len(length := source.read(LENGTH_BYTES)) == LENGTH_BYTES:
        sink.write(frame(answer(source.read(int.from_bytes(length, "big")))))
        sink.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
