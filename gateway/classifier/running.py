"""The classifier of the running gateway: the weights that the policy names, or the shipped ones; reloaded when the
policy names another file or the file changes."""

import asyncio
import logging
from pathlib import Path
from typing import Final

from gateway.classifier.weights import FILE, open_classifier
from gateway.errors import BadWeights
from gateway.types import Classification, Query
from twolane.process.file_watch import FileWatch

_log: Final = logging.getLogger("gateway")


class RunningClassifier:
    """See `routing.classify.Classify`. Weights that cannot be read leave the running ones in place."""

    def __init__(self, path: Path | None) -> None:
        """Raises BadWeights."""
        self._path = path or FILE
        self._watch = FileWatch(self._path)
        self._classify = open_classifier(self._path)

    def __call__(self, query: Query) -> Classification:
        """Classify a request by the current weights."""
        return self._classify(query)

    async def use(self, path: Path | None) -> None:
        """Read the weights that a new policy names, in a thread; requests use the old ones meanwhile. Raises
        BadWeights."""
        path = path or FILE
        watch = FileWatch(path)
        if path == self._path and not self._watch.has_changed():
            return
        self._classify = await asyncio.to_thread(open_classifier, path)
        self._path, self._watch = path, watch

    async def follow(self, every_s: float) -> None:
        """Read the file again when it has changed, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            if self._watch.has_settled():
                await self._reload()

    async def _reload(self) -> None:
        self._watch.loading()
        path = self._path
        try:
            found = await asyncio.to_thread(open_classifier, path)
        except BadWeights as error:
            _log.error("classifier weights not reloaded: %s", error)
            return
        if path == self._path:  # no new policy came in between
            self._classify = found
            _log.info("classifier weights %s", path)
