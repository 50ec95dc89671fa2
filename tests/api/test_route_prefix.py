"""The app below a route prefix: what it answers leads back to itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from genserve.api import create_app
from genserve.config import Settings
from genserve.diffusion.catalog import Catalog
from tests.api.fake_gateway import FakeClock, FakeGateway


@pytest.fixture
async def below(gateway: FakeGateway, clock: FakeClock) -> AsyncIterator[httpx.AsyncClient]:
    """The app as Ray Serve calls it for the route prefix /team: the prefix is in the path and named beside it."""
    app = create_app(gateway, Catalog.load(), Settings(), clock=clock)
    transport = httpx.ASGITransport(app, root_path="/team")
    async with httpx.AsyncClient(transport=transport, base_url="http://genserve.test/team") as connected:
        yield connected


async def test_links_lead_below_the_prefix(below: httpx.AsyncClient) -> None:
    reply = await below.post("/v1/images/generations", json={"prompt": "a cat", "response_format": "url"})
    url = reply.json()["data"][0]["url"]
    assert url.startswith("http://genserve.test/team/v1/images/img_")
    assert (await below.get(url)).status_code == 200


async def test_the_api_page_reads_the_api_below_the_prefix(below: httpx.AsyncClient) -> None:
    assert "'/team/openapi.json'" in (await below.get("/docs")).text
    assert (await below.get("/openapi.json")).json()["servers"] == [{"url": "/team"}]


async def test_an_unknown_route_is_told_where_the_api_page_is(below: httpx.AsyncClient) -> None:
    assert "; /team/docs lists the routes" in (await below.get("/v2")).json()["error"]["message"]


async def test_a_repeated_call_is_the_same_under_another_prefix(
    below: httpx.AsyncClient, client: httpx.AsyncClient, gateway: FakeGateway
) -> None:
    for connection in (below, client):
        reply = await connection.post("/v1/videos", json={"prompt": "waves"}, headers={"idempotency-key": "once"})
        assert reply.status_code == 200, reply.text
    assert len(gateway.specs) == 1
