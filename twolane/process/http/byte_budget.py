"""A budget of bytes that all requests of a process hold together: bodies being read or answered, and buffered answers.

Without it, a few large requests at once exceed the memory of a container, and every request of the process is lost.
Belongs to one event loop.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Final, Self

OWNER_SHARE: Final = 0.75  # of the budget that one API key may hold


class BudgetExceededError(Exception):
    """The bytes do not fit into the budget now."""


class ByteBudget:
    """At most `limit` bytes are reserved at a time, and one owner reserves at most OWNER_SHARE of them, but always
    `largest`, the size of the largest permitted body. Raises ValueError if that does not fit."""

    def __init__(self, limit: int, *, largest: int = 0) -> None:
        if largest > limit:
            raise ValueError(f"the limit of {limit} bytes is smaller than the largest body, {largest} bytes")
        self._limit = limit
        self._owner_limit = max(largest, int(limit * OWNER_SHARE))
        self._by_owner: dict[str, int] = {}
        self.used = 0  # of the limit

    def hold(self) -> "Holding":
        """The share of a new request; use it as a context manager, or `release` it."""
        return Holding(self)

    def change(self, size: int, owner: str | None) -> None:
        """Count bytes as held, or as released if `size` is negative."""
        self.used += size
        if owner is not None:
            own = self._by_owner.get(owner, 0) + size
            if own:
                self._by_owner[owner] = own
            else:
                self._by_owner.pop(owner, None)


class Holding:
    """The bytes that one request holds. They are released exactly once, however the request ends."""

    __slots__ = ("_budget", "_is_released", "_owner", "size")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._owner: str | None = None
        self._is_released = False
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.release()

    def assign(self, owner: str) -> None:
        """Count the bytes as those of an API key, given by its name."""
        if not self._is_released:
            if size := self.size:
                if self._owner is not None:
                    self._budget.change(-size, self._owner)
                    self._budget.used += size
                by_owner = self._budget._by_owner
                by_owner[owner] = by_owner.get(owner, 0) + size
            self._owner = owner

    def reserve(self, size: int) -> None:
        """Hold `size` bytes in all, if that is more than now. Raises BudgetExceededError, which changes nothing."""
        if size > self.size:
            self.add_if_fits(size - self.size)

    def add_if_fits(self, size: int) -> None:
        """Hold so many bytes more. Raises BudgetExceededError, which changes nothing."""
        if self._is_released:
            return
        budget, owner = self._budget, self._owner
        used = budget.used + size
        if used > budget._limit:
            raise BudgetExceededError
        if owner is not None:
            own = budget._by_owner.get(owner, 0) + size
            if own > budget._owner_limit:
                raise BudgetExceededError
            budget._by_owner[owner] = own
        budget.used = used
        self.size += size

    def add(self, size: int) -> None:
        """Hold so many bytes more, or fewer, whether they fit or not."""
        if not self._is_released:
            self.size += size
            self._budget.change(size, self._owner)

    def release(self) -> None:
        """Hold nothing any longer; further calls do nothing."""
        if not self._is_released:
            self._is_released = True
            if size := self.size:
                self._budget.change(-size, self._owner)
                self.size = 0

    def beside(self) -> "Holding":
        """The share of other work for the same owner, which ends before this request, or outlasts it."""
        other = self._budget.hold()
        if self._owner is not None:
            other.assign(self._owner)
        return other


IN_SCOPE: Final = "twolane.holding"  # where an ASGI scope has the holding of its request
HOLDING: Final[ContextVar["Holding | HoldingPart | None"]] = ContextVar("HOLDING", default=None)  # of this request


class HoldingPart:
    """What one of several tasks of a request holds of it."""

    __slots__ = ("_whole", "size")

    def __init__(self, whole: "Holding | HoldingPart") -> None:
        self._whole = whole
        self.size = 0

    def add_if_fits(self, size: int) -> None:
        """Hold so many bytes more. Raises BudgetExceededError, which changes nothing."""
        self._whole.add_if_fits(size)
        self.size += size

    def add(self, size: int) -> None:
        """Hold so many bytes more, or fewer, whether they fit or not."""
        self._whole.add(size)
        self.size += size


def hold_apart() -> None:
    """Count what the current task, one of several of a request, holds from now on as a part of its own."""
    whole = HOLDING.get()
    if whole is not None:
        HOLDING.set(HoldingPart(whole))


def hold_more(size: int) -> None:
    """Count bytes that the current request keeps in memory, such as a part of a buffered answer. Raises
    BudgetExceededError if they do not fit."""
    holding = HOLDING.get()
    if holding is not None:
        holding.add_if_fits(size)


def hold_less(size: int) -> None:
    """The current request no longer keeps these bytes."""
    holding = HOLDING.get()
    if holding is not None:
        holding.add(-size)


@contextmanager
def held_beside(size: int) -> Iterator[None]:
    """Count `size` bytes, and what the block holds, apart from the current request, whose bytes are released when it
    ends. Use it in a task of its own. Raises BudgetExceededError."""
    holding = HOLDING.get()
    if not isinstance(holding, Holding):
        yield
        return
    with holding.beside() as other:
        other.reserve(size)
        HOLDING.set(other)
        yield
