"""Holds the running policy and reloads it when its file changes or on request. An invalid file keeps the running
one."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from gateway.errors import CannotStart, PolicyError, PolicyUnreadable
from gateway.policy_files.dns import Resolver
from gateway.policy_files.load import load
from gateway.routing.policy import Policy
from twolane.process.file_watch import FileWatch

RESOLVE_EVERY_S: Final = 2.0  # shorter than the preStop delay of a pod, so a terminating pod is dropped in time

_log = logging.getLogger("gateway")


class Policies:
    """Holds the current policy. The gateway does not start without a valid one."""

    def __init__(self, path: Path, environment: Mapping[str, str], resolver: Resolver | None = None) -> None:
        """Raises PolicyError."""
        self._path = path
        self._environment = environment
        self._resolver = resolver or Resolver()
        self.current = load(path, environment, self._resolver)  # a running request keeps the one it started with

    @property
    def path(self) -> Path:
        """The policy file."""
        return self._path

    def prepare(self) -> Policy:
        """Load the file again without activating it. Raises PolicyError. Safe to call from another thread."""
        return load(self._path, self._environment, self._resolver)

    @property
    def has_dns_names(self) -> bool:
        """Whether any endpoints are discovered via DNS."""
        return self._resolver.has_dns_names

    def endpoints_changed(self) -> bool:
        """Whether DNS returns other addresses now. Blocking."""
        return self._resolver.has_changed()

    def swap(self, prepared: Policy) -> bool:
        """Activate a prepared policy for new requests. Returns whether its content differs from the current one."""
        changed = prepared.content_hash != self.current.content_hash
        self.current = prepared
        return changed


class PolicyWatcher:
    """Reloads the policy when its file or its DNS names change, or on request. `on_reload` receives the result of every
    reload: whether the policy changed, or the error for which the running policy was kept. `prepare_targets` loads what
    a new policy needs before it is activated, and raises CannotStart if that is impossible."""

    def __init__(
        self,
        policies: Policies,
        on_reload: Callable[[bool | PolicyError], None],
        *,
        prepare_targets: Callable[[Policy], Awaitable[None]] | None = None,
    ) -> None:
        self._policies = policies
        self._on_reload = on_reload
        self._prepare_targets = prepare_targets
        self._reload_requested = asyncio.Event()
        self._watch = FileWatch(policies.path)
        self._unreadable = ""  # why the file could not be read at the last attempt
        self._resolved_s = float("-inf")

    def request_reload(self) -> None:
        """Reload soon, whether or not the file has changed (SIGHUP)."""
        self._reload_requested.set()

    async def run(self, every_s: float) -> None:
        """Check the file every `every_s` seconds until cancelled. A file that cannot be read, because it is being
        replaced or its file system is away, is tried again at every check, and reported once."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await self._reload_requested.wait()
            is_due = self._watch.has_settled(again=bool(self._unreadable))
            if self._reload_requested.is_set() or is_due or await self._has_new_addresses():
                self._reload_requested.clear()
                await self.reload()

    async def reload(self) -> None:
        """Load in a thread, so that no request waits for the parser; then swap."""
        self._watch.loading()
        known, self._unreadable = self._unreadable, ""
        try:
            prepared = await asyncio.to_thread(self._policies.prepare)
            if self._prepare_targets is not None:
                await self._prepare_targets(prepared)
        except PolicyUnreadable as error:
            self._unreadable = error.message
            if error.message != known:
                self._on_reload(error)
            return
        except PolicyError as error:
            self._on_reload(error)
            return
        except CannotStart as fault:
            self._on_reload(PolicyError(fault.message, file=str(self._policies.path)))
            return
        except Exception as unexpected:  # noqa: BLE001 - a file that crashes the parser must not stop the watcher
            _log.exception("loading the policy: unexpected error")
            self._on_reload(
                PolicyError(f"cannot be loaded: {type(unexpected).__name__}", file=str(self._policies.path))
            )
            return
        self._on_reload(self._policies.swap(prepared))

    async def _has_new_addresses(self) -> bool:
        """Whether a DNS name resolves to other addresses; checked at most every RESOLVE_EVERY_S."""
        now_s = asyncio.get_running_loop().time()
        if not self._policies.has_dns_names or now_s - self._resolved_s < RESOLVE_EVERY_S:
            return False
        self._resolved_s = now_s
        return await asyncio.to_thread(self._policies.endpoints_changed)
