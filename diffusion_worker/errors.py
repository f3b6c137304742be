"""The worker's exceptions, as one tree; the web layer turns their fields into HTTP responses.

WorkerError
├── InvalidRequest            the request is invalid; `param` names the field                       400
│   ├── OutOfRange            a value outside its bounds
│   ├── PromptTooLong         prompt and max_tokens together exceed the context
│   ├── UnsupportedSchema     a constraint that cannot be enforced; names keyword and position
│   └── AnswerDoesNotFit      the shortest output that the constraint allows exceeds max_tokens
├── Refused                   a valid request that cannot be served now; see `retry_after_s`
│   ├── OverCapacity          the queue is full                                                     429
│   ├── NotResident           the weights are not loaded                                            503
│   ├── Draining              the worker is shutting down                                           503
│   └── DeviceFailed          the device failed; the worker exits                                   503
├── CompilerFailed            the constraint compiler process crashed                               500
├── SequenceFailed            an accepted sequence failed
│   ├── NotFinite             its logits contain NaN or infinity                                    500
│   ├── StepFailed            the step that included it raised an exception                         500
│   ├── InvalidOutput         its output violates a keyword that is checked at the end only         500
│   ├── LowConfidence         its confidence cannot reach the request's minimum                     422
│   ├── DeadlineExceeded      its deadline passed before any output existed                         504
│   └── Cancelled             the client disconnected, or the sequence was aborted                  499
├── CheckpointError           the checkpoint cannot be loaded; names the file and the cause
│   ├── CheckpointMissing     no such folder, file, or hub entry
│   ├── CheckpointBroken      unreadable, incomplete, or inconsistent with its config
│   └── CheckpointForeign     a checkpoint of an unsupported architecture
└── BadSetting                invalid configuration; names the flag, variable or file
"""

# ruff: noqa: N818 - an "Error" suffix on each name would only repeat the root of the tree.

from typing import ClassVar


class WorkerError(Exception):
    """An unexpected internal error.

    The base class of all errors of the worker. `status` is the HTTP status, `code` the stable error code in responses.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = True  # whether the same request may succeed later; sent as `x-should-retry`

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidRequest(WorkerError):
    """The request is invalid."""

    status = 400
    code = "invalid_request_error"
    retryable = False


class OutOfRange(InvalidRequest):
    """A value is outside its bounds; `param` names the field."""

    code = "invalid_value"


class PromptTooLong(InvalidRequest):
    """The prompt and `max_tokens` together exceed the context."""

    code = "context_length_exceeded"


class UnsupportedSchema(InvalidRequest):
    """The constraint cannot be enforced. `keyword` is the unsupported keyword, `pointer` the JSON pointer to it."""

    code = "unsupported_schema"

    def __init__(self, message: str, *, keyword: str, pointer: str, param: str | None = None) -> None:
        super().__init__(f"{message} (`{keyword}` at `#{pointer}`)", param=param)
        self.keyword = keyword
        self.pointer = pointer


class AnswerDoesNotFit(InvalidRequest):
    """The shortest output that the constraint allows is longer than `max_tokens`."""

    code = "answer_does_not_fit"


class Refused(WorkerError):
    """A valid request that cannot be served now; retry after `retry_after_s` seconds."""

    status = 503
    code = "overloaded"


class OverCapacity(Refused):
    """The waiting queue is full; `retry_after_s` is the predicted wait."""

    status = 429


class NotResident(Refused):
    """The weights are not loaded."""

    code = "not_resident"


class Draining(Refused):
    """The worker is draining: running requests finish, new ones are rejected."""

    code = "draining"


class DeviceFailed(Refused):
    """The device failed: the worker refuses all requests and exits, to be restarted by its supervisor."""

    code = "device_failed"


class DeviceHangs(DeviceFailed):
    """The device hangs: a step makes no progress, and the worker exits, to be restarted by its supervisor."""


class CompilerFailed(WorkerError):
    """The constraint compiler process crashed or misbehaved; it is restarted for the next constraint."""

    code = "compiler_failed"


class SequenceFailed(WorkerError):
    """An accepted sequence failed."""


class NotFinite(SequenceFailed):
    """The model returned NaN or infinity for this sequence."""

    code = "not_finite"


class StepFailed(SequenceFailed):
    """The step that included this sequence raised an exception."""

    code = "step_failed"


class InvalidOutput(SequenceFailed):
    """Every attempt violated a keyword that is checked only on complete output."""

    code = "invalid_output"
    retryable = False


class LowConfidence(SequenceFailed):
    """The confidence of the answer cannot reach the minimum that the request sets."""

    status = 422
    code = "low_confidence"
    retryable = False


class DeadlineExceeded(SequenceFailed):
    """The deadline passed before any output existed."""

    status = 504
    code = "deadline_exceeded"


class Cancelled(SequenceFailed):
    """The sequence was aborted."""

    status = 499
    code = "cancelled"


class CheckpointError(WorkerError):
    """The checkpoint cannot be loaded."""

    code = "checkpoint_error"


class CheckpointMissing(CheckpointError):
    """No such folder, file or hub repository."""

    code = "checkpoint_missing"


class CheckpointBroken(CheckpointError):
    """The checkpoint is unreadable, incomplete, or inconsistent with its config."""

    code = "checkpoint_broken"


class CheckpointForeign(CheckpointError):
    """The checkpoint has an unsupported architecture."""

    code = "checkpoint_foreign"


class BadSetting(WorkerError):
    """Invalid configuration; the message names the flag, the variable or the file."""

    code = "bad_setting"
