"""An answer that has arrived completely, as the one document that was requested."""

from collections.abc import Mapping

from gateway.enums import TargetApi
from gateway.types import Delta
from gateway.upstreams.answers.kept_bytes import keep_bytes
from gateway.upstreams.answers.reader import read_document
from gateway.upstreams.http_client.client import HttpResponse


class WholeReply:
    """An UpstreamResponse whose one JSON object has arrived, and its own iterator of that delta."""

    __slots__ = ("_api", "_document", "_response")

    def __init__(self, response: HttpResponse, document: bytes, api: TargetApi) -> None:
        self._response, self._api = response, api
        self._document: bytes | None = document

    @property
    def headers(self) -> Mapping[str, str]:
        """Those of the response."""
        return self._response.headers

    def deltas(self) -> "WholeReply":
        """See `ports.UpstreamResponse`."""
        return self

    def whole(self) -> Delta | None:
        """See `ports.Deltas`."""
        document, self._document = self._document, None
        if document is None:
            return None
        keep_bytes(len(document))
        return read_document(document, self._api)

    def __aiter__(self) -> "WholeReply":
        return self

    async def __anext__(self) -> Delta:
        """The delta."""
        delta = self.whole()
        if delta is None:
            raise StopAsyncIteration
        return delta

    async def aclose(self) -> None:
        """Nothing to close: the connection is back in the pool."""
