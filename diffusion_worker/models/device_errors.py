"""Classifies errors of the device: out of memory, and those after which it cannot be used by this process again."""

import torch

# What torch raises for a CUDA error, followed by the text of cudaGetErrorString.
_CUDA = "CUDA error: "
# "To continue using CUDA, the process must be terminated and relaunched": the errors that the CUDA Runtime API
# reference (enum cudaError) describes so, and that torch lists for the same reason (c10/cuda/CUDAMiscFunctions.cpp).
# Every later CUDA call of the process returns the same error.
FATAL = (
    "an illegal memory access was encountered",  # cudaErrorIllegalAddress, 700
    "the launch timed out and was terminated",  # cudaErrorLaunchTimeout, 702
    "device-side assert triggered",  # cudaErrorAssert, 710
    "hardware stack error",  # cudaErrorHardwareStackError, 714
    "an illegal instruction was encountered",  # cudaErrorIllegalInstruction, 715
    "misaligned address",  # cudaErrorMisalignedAddress, 716
    "operation not supported on global/shared address space",  # cudaErrorInvalidAddressSpace, 717
    "invalid program counter",  # cudaErrorInvalidPc, 718
    "unspecified launch failure",  # cudaErrorLaunchFailure, 719
)
# torch's allocators on the CPU (Linux and macOS, Windows) raise a plain RuntimeError.
_NO_HOST_MEMORY = ("can't allocate memory", "not enough memory")


def is_fatal(error: BaseException) -> bool:
    """Whether a CUDA context never survives this error, or its cause. Only errors of the runtime itself count, by the
    beginning of their message, so that no text of a request can look like one."""
    if isinstance(error, RuntimeError) and str(error).startswith(tuple(_CUDA + text for text in FATAL)):
        return True
    return error.__cause__ is not None and is_fatal(error.__cause__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the device or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_HOST_MEMORY)
