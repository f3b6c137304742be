"""Everything that can go wrong in the worker, as one tree; the web layer needs only its fields to answer on the wire.

WorkerError
├── InvalidRequest                    the request cannot be honoured as written; `param` names the field     400
│   ├── OutOfRange            a number or a list outside its bounds
│   ├── PromptTooLong         prompt and answer together exceed the context
│   ├── UnsupportedSchema     a constraint that cannot be kept; names the keyword and where it stands
│   └── AnswerDoesNotFit      the shortest answer a constraint allows is longer than max_tokens
├── Refused                   a good request at a bad moment; `retry_after_s` says when to come back
│   ├── OverCapacity          the queue is full                                                     429
│   ├── NotResident           weights are not (yet) in memory                                       503
│   └── Draining              the worker is leaving                                                 503
├── CompilerFailed            the process that compiles constraints died on this one                500
├── SequenceFailed            an accepted sequence ended without an answer
│   ├── NotFinite             its logits held NaN or infinity                                       500
│   ├── StepFailed            the step it took part in raised                                       500
│   ├── InvalidOutput         its answers broke a keyword that no automaton sees                     500
│   ├── DeadlineExceeded      its deadline passed before anything could be answered                 504
│   └── Cancelled             its client left, or it was aborted                                    499
├── CheckpointError           the worker cannot start; names the file and the cause
│   ├── CheckpointMissing     no such folder, file, or hub entry
│   ├── CheckpointBroken      unreadable, incomplete, or not what its own config says
│   └── CheckpointForeign     a readable checkpoint of another architecture
└── BadSetting                the worker cannot start; names the flag, variable or file
"""

# ruff: noqa: N818 - the names say what happened; "Error" behind each would only repeat the head of the tree.

from typing import ClassVar


class WorkerError(Exception):
    """Head of the tree. `status` is a hint for HTTP, `code` the stable word on the wire."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidRequest(WorkerError):
    """The request cannot be honoured as written."""

    status = 400
    code = "invalid_request_error"


class OutOfRange(InvalidRequest):
    """A value outside its bounds; `param` names it."""

    code = "invalid_value"


class PromptTooLong(InvalidRequest):
    """Prompt and requested answer together exceed the context."""

    code = "context_length_exceeded"


class UnsupportedSchema(InvalidRequest):
    """A constraint that cannot be kept. `keyword` is what stands in the way, `pointer` the JSON pointer to it."""

    code = "unsupported_schema"

    def __init__(self, message: str, *, keyword: str, pointer: str, param: str | None = None) -> None:
        super().__init__(f"{message} (`{keyword}` at `#{pointer}`)", param=param)
        self.keyword = keyword
        self.pointer = pointer


class AnswerDoesNotFit(InvalidRequest):
    """The shortest answer that the constraint allows is longer than `max_tokens`."""

    code = "answer_does_not_fit"


class Refused(WorkerError):
    """A good request at a bad moment: shed, never queued without bound."""

    status = 503
    code = "overloaded"


class OverCapacity(Refused):
    """The waiting line is full; `retry_after_s` is predicted from the work ahead."""

    status = 429


class NotResident(Refused):
    """The weights are not in memory."""

    code = "not_resident"


class Draining(Refused):
    """The worker finishes what it has and takes nothing new."""

    code = "draining"


class CompilerFailed(WorkerError):
    """The process that compiles constraints died or misbehaved; it is started again for the next one."""

    code = "compiler_failed"


class SequenceFailed(WorkerError):
    """An accepted sequence ended without an answer."""


class NotFinite(SequenceFailed):
    """The net returned NaN or infinity for this sequence."""

    code = "not_finite"


class StepFailed(SequenceFailed):
    """The step this sequence took part in raised."""

    code = "step_failed"


class InvalidOutput(SequenceFailed):
    """Every answer, however often it was tried, broke a keyword that is checked only at the end."""

    code = "invalid_output"


class DeadlineExceeded(SequenceFailed):
    """The deadline passed before a first canvas existed."""

    status = 504
    code = "deadline_exceeded"


class Cancelled(SequenceFailed):
    """The sequence was aborted; its rows are free again."""

    status = 499
    code = "cancelled"


class CheckpointError(WorkerError):
    """The worker cannot start with these weights."""

    code = "checkpoint_error"


class CheckpointMissing(CheckpointError):
    """No such folder, file, or hub entry."""

    code = "checkpoint_missing"


class CheckpointBroken(CheckpointError):
    """Unreadable, incomplete, or not what its own config says."""

    code = "checkpoint_broken"


class CheckpointForeign(CheckpointError):
    """A readable checkpoint of another architecture."""

    code = "checkpoint_foreign"


class BadSetting(WorkerError):
    """The worker is told to start in a way it cannot; the message names the flag, the variable or the file."""

    code = "bad_setting"
