"""Proposed policies: compared with the running one by `policy_process`, one at a time."""

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.errors import InvalidField

TIMEOUT_S: Final = 60.0
MAX_POLICY_BYTES: Final = 1 << 18
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")
_KEPT: Final = ("PATH", "PYTHONPATH", "HOME", "LANG", "VIRTUAL_ENV")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """Compares policies with the one in `path`. A proposal may use the environment variables that the file already
    uses, and no others: a page must not read the environment of the gateway."""

    path: Path
    environment: Mapping[str, str]
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    def running(self) -> str:
        """The text of the policy file. Raises InvalidField if it cannot be read; blocking."""
        try:
            return self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as fault:
            raise InvalidField(f"The policy file {self.path.name} cannot be read: {fault}.") from fault

    async def compare(self, proposed: str, **more: Any) -> dict[str, Any]:
        """The result of `policy_process.run`. `more`: `request` and `log` of its Comparison. Raises InvalidField,
        also if the comparison exceeds its time or memory."""
        if len(proposed.encode()) > MAX_POLICY_BYTES:
            raise InvalidField(f"'policy' is larger than {MAX_POLICY_BYTES} bytes.", param="policy")
        running = await asyncio.to_thread(self.running)
        allowed = set(_VARIABLE.findall(running))
        environment = {name: value for name, value in self.environment.items() if name in allowed}
        given = {"running": running, "proposed": proposed, "environment": environment, **more}
        async with self._one_at_a_time:
            return await _run(orjson.dumps(given))


async def _run(given: bytes) -> dict[str, Any]:
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | {"OPENBLAS_NUM_THREADS": "1"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.web.console.policy_process"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            written, _ = await process.communicate(given)
    except TimeoutError:
        raise InvalidField(f"'policy': comparing it took longer than {TIMEOUT_S:g} s.", param="policy") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise InvalidField("'policy': comparing it exceeded the limits of time or memory.", param="policy")
    result: dict[str, Any] = orjson.loads(written)
    return result
