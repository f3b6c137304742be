"""The column `litellm` of the page on compatibility says what a gateway does through litellm's SDK."""

from pathlib import Path

import orjson
import pytest

from docs.compatibility import PASSED
from docs.compatibility_requests import SURFACES
from tests.docs.test_compatibility import answer, differences
from tests.gateway.serving import fake_server, real_gateway
from tests.gateway.upstreams.provider_servers import LITELLM_MARKS

pytestmark = LITELLM_MARKS
# Left out, as the page's notes say: litellm does not know whether the provider takes them for the model `m`.
HINTS = {("user", PASSED), ("verbosity", PASSED), ("metadata", "as `user`")}


async def test_a_gateway_sends_through_litellm_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_KEY", "the-key")
    async with fake_server(answer) as target:
        provider = {"kind": "litellm", "url": f"{target.url}/v1", "model": "openai/m", "engine": "openai"}
        targets = {"litellm": {**provider, "key_env": "PROVIDER_KEY", "location": "external"}}
        policy = {"version": 1, "targets": targets, "routes": [{"name": "default", "use": "litellm"}]}
        async with real_gateway(tmp_path, orjson.dumps(policy).decode()) as gateway:
            wrong = [each for surface in SURFACES for each in await differences(surface, ["litellm"], target, gateway)]
    assert {(name, cell) for name, _, cell, *_ in wrong} == HINTS
    assert all(status == 200 and len(sent) == 1 for *_, status, _, sent in wrong)
