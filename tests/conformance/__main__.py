"""Run the suite against any server: `python -m tests.conformance URL [MODEL]`; exits 1 if a rule is broken.

The rules about answers suppose that the model says what the scripted server of the tests says, where it matters: a call
where tools are offered, and a cut where one token is allowed.
"""

import asyncio
import sys
from dataclasses import replace

import aiohttp

from tests.conformance.asks import asks
from tests.conformance.exchange import Ask, exchange
from tests.conformance.rules import RULES
from tests.conformance.suite import failures


async def main(url: str, model: str) -> int:
    """The number of broken rules, each with a request that shows it."""
    broken = 0
    async with aiohttp.ClientSession() as client:
        for ask in asks():
            found = await exchange(client, url, _of(ask, model))
            for text in failures(found):
                broken += 1
                print(f"MUST {text}\n  {ask.path} {dict(ask.body)}\n  {found.status} {found.data[:300]!r}")
    print(f"{len(RULES)} rules, {broken} failures")
    return int(broken > 0)


def _of(ask: Ask, model: str) -> Ask:
    """The same request for this model."""
    of = _of(ask.of, model) if ask.of is not None else None
    return replace(ask, body={**ask.body, "model": model}, of=of) if ask.body.get("model") == "auto" else ask


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "auto")))
