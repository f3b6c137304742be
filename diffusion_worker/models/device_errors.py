"""Classifies errors of the device: out of memory, and those after which it cannot be used by this process again."""

import re
from collections.abc import Iterator
from typing import Final

import torch

# After these errors every later call of the process fails, or the results of the device cannot be trusted: errors of
# which the CUDA Runtime API reference (enum cudaError) says "the process must be terminated and relaunched" (listed by
# torch in c10/cuda/CUDAMiscFunctions.cpp), uncorrectable memory and link errors, and a device or context that is gone.
FATAL_CODES: Final = frozenset(
    (46, 100, 214, 220, 222, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911, 999)
)
# The same as text, which cudaGetErrorString returns and other libraries repeat.
FATAL: Final = (
    "an illegal memory access was encountered",  # cudaErrorIllegalAddress, 700
    "the launch timed out and was terminated",  # cudaErrorLaunchTimeout, 702
    "device-side assert triggered",  # cudaErrorAssert, 710
    "hardware stack error",  # cudaErrorHardwareStackError, 714
    "an illegal instruction was encountered",  # cudaErrorIllegalInstruction, 715
    "misaligned address",  # cudaErrorMisalignedAddress, 716
    "operation not supported on global/shared address space",  # cudaErrorInvalidAddressSpace, 717
    "invalid program counter",  # cudaErrorInvalidPc, 718
    "unspecified launch failure",  # cudaErrorLaunchFailure, 719
    "all CUDA-capable devices are busy or unavailable",  # cudaErrorDevicesUnavailable, 46, until CUDA 12
    "CUDA-capable device(s) is/are busy or unavailable",  # the same, later
    "no CUDA-capable device is detected",  # cudaErrorNoDevice, 100: it has fallen off the bus
    "uncorrectable ECC error encountered",  # cudaErrorECCUncorrectable, 214
    "uncorrectable NVLink error detected during the execution",  # cudaErrorNvlinkUncorrectable, 220
    "Invalid access of peer GPU memory over nvlink or a hardware error",  # cudaErrorContained, 222
    "context is destroyed",  # cudaErrorContextIsDestroyed, 709
    "the MPS client has been terminated by the server",  # cudaErrorMpsClientTerminated, 810
    "an async error has occured in external entity outside of CUDA",  # cudaErrorExternalDevice, 911 (sic)
    "unknown error",  # cudaErrorUnknown, 999
    # A kernel of a library has failed on the device; the library hides the error of the runtime.
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUSOLVER_STATUS_EXECUTION_FAILED",
    "CUSPARSE_STATUS_EXECUTION_FAILED",
    "CUFFT_EXEC_FAILED",
)
# What torch, triton and the libraries write before the text; HIP reports the same texts.
_SOURCES = r"(?:(?:CUDA|HIP|cu[A-Z]\w+) (?:driver )?error: |Triton Error \[(?:CUDA|HIP)\]: )"
_FATAL_MESSAGE = re.compile(rf"{_SOURCES}(?:{'|'.join(map(re.escape, FATAL))})(?!\w)", re.IGNORECASE)
# torch's allocators on the CPU (Linux and macOS, Windows) raise a plain RuntimeError.
_NO_HOST_MEMORY = ("can't allocate memory", "not enough memory")


def is_fatal(error: BaseException) -> bool:
    """Whether the device cannot be used again after this error, or one that led to it. Only errors of the runtime
    itself count, by their code or the beginning of their message, so that no text of a request can look like one."""
    return any(_is_fatal(each) for each in _chain(error))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the device or on the host; also as the cause of this error."""
    return any(_is_out_of_memory(each) for each in _chain(error))


def device_problem(device: torch.device) -> Exception | None:
    """The error of a small computation on the device; None if it works, or only lacks memory. For errors of libraries
    that do not say what failed."""
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # noqa: BLE001 - of any kind: it is the result
        return None if is_out_of_memory(error) else error
    return None


def _is_fatal(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError):
        return False
    code = getattr(error, "error_code", None)  # of torch.AcceleratorError
    return code in FATAL_CODES if code is not None else _FATAL_MESSAGE.match(str(error)) is not None


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_HOST_MEMORY)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that it was raised from, or while handling."""
    seen = set[int]()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
