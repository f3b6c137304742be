"""The keys file of a running program: a new key works, and a revoked one stops, within a second."""

import asyncio
import logging
from pathlib import Path
from typing import Final

from twolane.process.api_keys import Keys, load_keys
from twolane.process.errors import ConfigurationError
from twolane.process.file_watch import FileWatch

WATCH_EVERY_S: Final = 0.25  # a change is loaded at the second check that sees it, so within half a second

_log = logging.getLogger("twolane.keys")


class KeysFile:
    """The current keys of a file."""

    def __init__(self, path: Path, *, allows_restrictions: bool = True) -> None:
        """`allows_restrictions`: whether this program restricts keys to models, routes, locations or private requests.
        Raises ConfigurationError."""
        self._path = path
        self._allows_restrictions = allows_restrictions
        self._watch = FileWatch(path)
        self._error = ""  # why the file as it is could not be loaded
        self.current: Keys = self._read()
        if not len(self.current):
            raise ConfigurationError(f"keys file {path} contains no key")

    async def follow(self) -> None:
        """Reload the file when it changes, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            if self._watch.has_settled(again=bool(self._error)):
                await asyncio.to_thread(self._reload)

    def _reload(self) -> None:
        """A file without any key revokes them all. One that cannot be read or parsed keeps the keys as they are: a
        deleted file, or a line with a mistake, must not lock everybody out. It is read again until that succeeds,
        because the cause may pass without a change of the file (no free file descriptor, a network file system)."""
        self._watch.loading()
        try:
            keys = self._read()
        except Exception as error:  # noqa: BLE001 - whatever happens, the next change must be loaded
            cause = str(error) if isinstance(error, ConfigurationError) else f"keys file {self._path}: {error!r}"
            if cause != self._error:
                fields = {"event": "keys_refused", "reason": cause}
                _log.error("%s; the keys loaded before remain valid", cause, extra={"fields": fields})
            self._error = cause
            return
        self._error = ""
        self.current = keys
        loaded = {"event": "keys_loaded", "keys": len(keys)}
        _log.info("keys file %s: %d keys", self._path, len(keys), extra={"fields": loaded})

    def _read(self) -> Keys:
        keys = load_keys(self._path)
        for key in keys:
            if key.is_restricted and not self._allows_restrictions:
                options = "models, routes, locations and private-only"
                raise ConfigurationError(f"keys file {self._path}: {key.name}: {options} are for the gateway only")
        return keys
