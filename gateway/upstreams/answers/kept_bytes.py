"""Counts the bytes of answers that stay in memory, in the byte budget of the process."""

from gateway.errors import OutOfBytes
from twolane.process.http.byte_budget import HOLDING, BudgetExceededError, hold_less


def keep_bytes(size: int) -> None:
    """Count bytes that the current request keeps. Raises OutOfBytes, which does not say when to call the target again:
    it did nothing wrong."""
    holding = HOLDING.get()
    if holding is None:
        return
    try:
        holding.add_if_fits(size)
    except BudgetExceededError:
        raise OutOfBytes(
            "The requests and answers in progress fill the memory that is set aside for them (--max-inflight-bytes).",
            detail="byte budget",
        ) from None


def forget_bytes(size: int) -> None:
    """The current request no longer keeps these bytes."""
    hold_less(size)
