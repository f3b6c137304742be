"""The worker as a deployment of Ray Serve: `import_path: diffusion_worker.ray_serve:app` (see deploy/ray/serve.yaml).

Every replica is a whole worker with the settings of its environment (`TWOLANE_WORKER_*`). Ray's proxy accepts
connections and picks a replica, so the settings of the listener (host, port, timeouts of connections) do not apply.
Requires the extra `ray`; nothing else imports this module.
"""

import asyncio
import os
from dataclasses import replace

from ray import serve
from starlette.types import ASGIApp

from diffusion_worker.app import build_worker
from diffusion_worker.errors import DeviceFailed
from diffusion_worker.models.checkpoint_source import require
from diffusion_worker.settings import read_settings
from twolane.process.bundled import resolve_checkpoint


class DiffusionWorker:
    """A replica. Ray sends it requests once its weights are loaded, and replaces it when its device has failed."""

    async def __init__(self) -> None:  # type: ignore[misc]  # Ray awaits it
        """Load the weights. Raises a ConfigurationError or CheckpointError, which Ray reports as the status of the
        deployment."""
        settings = read_settings((), os.environ)
        settings = replace(settings, checkpoint=resolve_checkpoint(settings.checkpoint))
        require(settings.checkpoint, settings.revision)
        self._worker = build_worker(settings)
        self._failure: DeviceFailed | None = None
        state = self._worker.serving_state
        state.engine.start(cold=settings.cold)
        self._tasks = [asyncio.create_task(self._watch())]
        if state.keys is not None:
            self._tasks.append(asyncio.create_task(state.keys.follow()))
        if not settings.cold:
            await state.engine.ready()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Ray's hook: the application that answers the requests of this replica."""
        return self._worker.app

    def check_health(self) -> None:
        """Ray's hook: an exception replaces this replica."""
        if self._failure is not None:
            raise self._failure

    async def _watch(self) -> None:
        self._failure = await self._worker.serving_state.engine.failure()


app = serve.deployment(serve.ingress()(DiffusionWorker)).bind()
