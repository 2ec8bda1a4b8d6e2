"""HTTP for s3fs that follows no redirect: it would take bodies and tokens to an address that nobody has checked."""

from __future__ import annotations

from typing import Any

from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]


class UnredirectedSession(AIOHTTPSession):  # type: ignore[misc]
    """The usual session; a redirect is an answer like any other, which botocore takes for an error."""

    async def _get_session(self, proxy_url: str | None) -> Any:
        return _Unredirected(await super()._get_session(proxy_url))


class _Unredirected:
    def __init__(self, session: Any) -> None:
        self._session = session

    async def request(self, method: str, **options: Any) -> Any:
        return await self._session.request(method, allow_redirects=False, **options)
