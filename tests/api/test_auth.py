"""API keys: who may call, and that nobody sees another's requests."""

from __future__ import annotations

import logging

import httpx
import pytest

from genserve.api.auth import LINK_LIFETIME_S
from genserve.config import Http, Settings
from tests.api.conftest import a_client
from tests.api.fake_gateway import FakeClock, FakeGateway

KEYED = Settings(http=Http(api_keys=("key-one", "key-twø")))
Headers = dict[bytes, bytes]


def bearer(key: str, **others: str) -> Headers:
    extra = {name.replace("_", "-").encode(): value.encode() for name, value in others.items()}
    return {b"authorization": f"Bearer {key}".encode(), **extra}


ONE, TWO = bearer("key-one"), bearer("key-twø")


@pytest.fixture
def keyed(gateway: FakeGateway, clock: FakeClock) -> httpx.AsyncClient:
    return a_client(gateway, clock, KEYED)


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic key-one", "key-one", "Bearer é"]
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/videos", "/v1/requests/x", "/v1/images/x/content"])
async def test_a_missing_or_wrong_key_is_refused(keyed: httpx.AsyncClient, header: str | None, path: str) -> None:
    headers: Headers = {} if header is None else {b"authorization": header.encode()}
    reply = await keyed.get(path, headers=headers)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["type"]) == (401, "invalid_api_key", "authentication_error")
    assert reply.headers["www-authenticate"] == "Bearer"


async def test_any_header_is_fine_while_authentication_is_off(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/videos", headers={"Authorization": "Bearer EMPTY"})).status_code == 200


async def test_probes_and_scrapers_need_no_key(keyed: httpx.AsyncClient) -> None:
    assert (await keyed.get("/health")).status_code == 200
    assert (await keyed.get("/metrics")).status_code == 200


async def test_one_key_does_not_see_anothers_requests(keyed: httpx.AsyncClient, gateway: FakeGateway) -> None:
    video_id = (await keyed.post("/v1/videos", json={"prompt": "x"}, headers=ONE)).json()["id"]
    for method, path in [
        ("GET", f"/v1/videos/{video_id}"),
        ("GET", f"/v1/videos/{video_id}/content"),
        ("DELETE", f"/v1/videos/{video_id}"),
        ("GET", f"/v1/requests/{video_id}"),
        ("GET", f"/v1/requests/{video_id}/events"),
        ("DELETE", f"/v1/requests/{video_id}"),
        ("GET", f"/v1/videos?after={video_id}"),
    ]:
        assert (await keyed.request(method, path, headers=TWO)).status_code == 404, path
    assert (await keyed.get("/v1/videos", headers=TWO)).json()["data"] == []
    assert (await keyed.get("/v1/requests", headers=TWO)).json()["data"] == []
    assert len((await keyed.get("/v1/videos", headers=ONE)).json()["data"]) == 1
    assert gateway.cancels == []


async def test_an_idempotency_key_belongs_to_its_tenant(keyed: httpx.AsyncClient, gateway: FakeGateway) -> None:
    for who in ("key-one", "key-twø"):
        await keyed.post("/v1/videos", json={"prompt": "x"}, headers=bearer(who, idempotency_key="k"))
    assert len(gateway.rows) == 2


async def test_an_image_link_opens_without_a_key_for_a_day(keyed: httpx.AsyncClient, clock: FakeClock) -> None:
    body = {"prompt": "a cat", "response_format": "url"}
    url = (await keyed.post("/v1/images/generations", json=body, headers=ONE)).json()["data"][0]["url"]
    bare, _, _ = url.partition("?")
    assert (await keyed.get(url)).status_code == 200
    assert (await keyed.get(bare)).status_code == 401
    assert (await keyed.get(bare, headers=ONE)).status_code == 200
    assert (await keyed.get(url[:-1] + ("0" if url[-1] != "0" else "1"))).status_code == 401
    assert (await keyed.get(url.replace("expires=1", "expires=2"))).status_code == 401
    clock.now_us += LINK_LIFETIME_S * 1_000_000 + 1_000_000
    assert (await keyed.get(url)).json()["error"]["message"] == "this link has expired; fetch it again"


async def test_keys_are_neither_logged_nor_recorded(
    keyed: httpx.AsyncClient, gateway: FakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await keyed.post("/v1/videos", json={"prompt": "x"}, headers=ONE)
    await keyed.post("/v1/videos", json={"prompt": "x"}, headers=bearer("nearly-key-one"))
    assert "key-one" not in caplog.text
    assert "key-one" not in repr(gateway.log)
