"""The running policy: replaced whole, and only by one that loads. Followed on the disk, and read again when told.

Knows files, not what depends on them: whoever does is told how each reading went.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from gateway.errors import CannotStart, PolicyError
from gateway.policy_files.dns import Resolver
from gateway.policy_files.load import load
from gateway.routing.policy import Policy

RESOLVE_EVERY_S: Final = 2.0  # a pod that leaves is still there so long: its preStop hook waits longer

Look = tuple[str, int, int, int]

_log = logging.getLogger("gateway")


class Policies:
    """Holds the current policy. Made only with one that loads: without a policy there is no gateway."""

    def __init__(self, path: Path, environment: Mapping[str, str], resolver: Resolver | None = None) -> None:
        """Raises PolicyError."""
        self._path = path
        self._environment = environment
        self._resolver = resolver or Resolver()
        self._current = load(path, environment, self._resolver)

    @property
    def current(self) -> Policy:
        """The policy for requests that begin now; each keeps the one that it began with."""
        return self._current

    @property
    def path(self) -> Path:
        """Where it is read from."""
        return self._path

    def prepare(self) -> Policy:
        """Read the file again. Raises PolicyError; nothing has changed then. May be called in another thread."""
        return load(self._path, self._environment, self._resolver)

    @property
    def has_names(self) -> bool:
        """Whether servers come from names that may have other addresses by now."""
        return self._resolver.has_names

    def servers_changed(self) -> bool:
        """Whether they have. Blocking."""
        return self._resolver.has_changed()

    def swap(self, prepared: Policy) -> bool:
        """Let requests that begin from now on have this one, which cannot fail. Did it change?"""
        changed = prepared.content_hash != self._current.content_hash
        self._current = prepared
        return changed


class Follower:
    """Reads the policy again when its file changes, or when asked. `tell` is told of each reading: whether it brought
    another policy, or the error for which the last good one was kept. `ready` is waited for before a policy is swapped
    in: it loads what that needs, and raises CannotStart if it cannot be had."""

    def __init__(
        self,
        policies: Policies,
        tell: Callable[[bool | PolicyError], None],
        *,
        ready: Callable[[Policy], Awaitable[None]] | None = None,
    ) -> None:
        self._policies = policies
        self._tell = tell
        self._ready = ready
        self._asked = asyncio.Event()
        self._read = self._last = look(policies.path)
        self._resolved_s = float("-inf")

    def ask(self) -> None:
        """Read it again soon, changed or not (SIGHUP)."""
        self._asked.set()

    async def run(self, every_s: float) -> None:
        """Look at the file so often, for ever; ends by cancellation only.

        Looking is polling, on purpose: it sees what inotify does not, files on a network and the symlinks that
        Kubernetes swaps to update a ConfigMap, and costs one stat.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await self._asked.wait()
            if self._asked.is_set() or self._has_settled() or await self._has_moved():
                self._asked.clear()
                await self.reload()

    async def reload(self) -> None:
        """Prepare in a thread, so that no request waits for the parser; then swap between two requests."""
        self._read = look(self._policies.path)
        try:
            prepared = await asyncio.to_thread(self._policies.prepare)
            if self._ready is not None:
                await self._ready(prepared)
        except PolicyError as error:
            self._tell(error)
            return
        except CannotStart as fault:
            self._tell(PolicyError(fault.message, file=str(self._policies.path)))
            return
        except Exception as mistake:  # noqa: BLE001 - a file that trips the parser must not end the following of all later ones
            _log.exception("reading the policy: a mistake of ours")
            self._tell(PolicyError(f"reading it failed: {type(mistake).__name__}", file=str(self._policies.path)))
            return
        self._tell(self._policies.swap(prepared))

    async def _has_moved(self) -> bool:
        """Has a name other addresses than it had? Asked every RESOLVE_EVERY_S at most."""
        now_s = asyncio.get_running_loop().time()
        if not self._policies.has_names or now_s - self._resolved_s < RESOLVE_EVERY_S:
            return False
        self._resolved_s = now_s
        return await asyncio.to_thread(self._policies.servers_changed)

    def _has_settled(self) -> bool:
        """Is it another file than was read, and the same as at the last look? One being written is not."""
        before, self._last = self._last, look(self._policies.path)
        return self._last == before and self._last != self._read


def look(path: Path) -> Look | None:
    """What tells two versions of a file apart without reading it; None if there is none. Follows symlinks."""
    try:
        found = path.stat()
        return os.path.realpath(path), found.st_ino, found.st_size, found.st_mtime_ns
    except OSError:
        return None
