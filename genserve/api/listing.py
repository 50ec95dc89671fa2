"""One page of requests, by OpenAI's query parameters; not how they look (see views)."""

from __future__ import annotations

from fastapi import Request

from genserve.api import jobs
from genserve.api.context import Api
from genserve.errors import CallerError
from genserve.scheduling.gateway import RequestRow

DEFAULT_LIMIT, MAX_LIMIT = 20, 100


async def read_page(api: Api, request: Request, tenant: str, *, media: str) -> tuple[list[RequestRow], bool]:
    """The rows, and whether there are more; raises CallerError for a wrong ``limit``, ``order`` or ``after``."""
    query = request.query_params
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise CallerError("invalid_order", f"order is asc or desc, not {order[:40]!r}", "order")
    limit = _limit(query.get("limit"))
    after = query.get("after", "")
    if after:
        await jobs.find(api, after, tenant, media=media)
    rows = await api.gateway.list_requests(
        media=media, tenant=tenant, after=after, limit=limit + 1, newest_first=order == "desc"
    )
    return rows[:limit], len(rows) > limit


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MAX_LIMIT):
        raise CallerError("invalid_limit", f"limit is 1 to {MAX_LIMIT}, not {text[:40]!r}", "limit")
    return int(text)
