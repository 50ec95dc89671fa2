"""/v1/requests: state, forecast, event stream and cancel of either kind."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from genserve.config import Limits, Settings
from genserve.scheduling.gateway import Forecast
from tests.api.conftest import a_client
from tests.api.fake_gateway import FakeClock, FakeGateway


@pytest.fixture
def gateway(gateway: FakeGateway) -> FakeGateway:
    """Driven by hand in this file."""
    gateway.runs_by_itself = False
    return gateway


@pytest.fixture
async def video_id(client: httpx.AsyncClient) -> str:
    return str((await client.post("/v1/videos", json={"prompt": "waves", "seed": 1})).json()["id"])


def events_of(text: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(id, event, data) of each framed event."""
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.split("\n\n") if block]
    return [(b["id"], b["event"], json.loads(b["data"])) for b in blocks if "data" in b]


async def test_a_request_tells_its_forecast_and_deadline(
    client: httpx.AsyncClient, gateway: FakeGateway, clock: FakeClock, video_id: str
) -> None:
    gateway.forecasts[video_id] = Forecast(clock.now_us + 4_000_000, clock.now_us + 60_000_000, True)
    gateway.start(video_id)
    gateway.step(video_id, 4)
    reply = await client.get(f"/v1/requests/{video_id}")
    found = reply.json()
    assert (found["status"], found["progress"], found["step"], found["steps"]) == ("running", 25, 4, 16)
    assert found["forecast"] == {
        "eta": 1_800_000_004.0,
        "remaining_ms": 4_000,
        "slack_ms": 56_000,
        "will_meet": True,
    }
    assert (found["deadline"], found["deadline_met"], found["url"]) == (1_800_000_060.0, None, None)
    assert reply.headers["openai-poll-after-ms"] == "500"


async def test_a_completed_request_tells_whether_its_deadline_was_met(
    client: httpx.AsyncClient, gateway: FakeGateway, clock: FakeClock, video_id: str
) -> None:
    clock.now_us += 61_000_000
    gateway.complete(video_id)
    found = (await client.get(f"/v1/requests/{video_id}")).json()
    assert (found["status"], found["deadline_met"], found["latency_ms"]) == ("completed", False, 61_000)
    assert found["url"] == f"http://genserve.test/v1/videos/{video_id}/content"


async def test_delete_cancels_and_keeps_the_record(
    client: httpx.AsyncClient, gateway: FakeGateway, video_id: str
) -> None:
    first = (await client.delete(f"/v1/requests/{video_id}")).json()
    second = (await client.delete(f"/v1/requests/{video_id}")).json()
    found = (await client.get(f"/v1/requests/{video_id}")).json()
    assert (first["cancelled"], second["cancelled"], found["status"]) == (True, False, "cancelled")
    assert found["error"]["code"] == "cancelled"
    assert len(gateway.cancels) == 1


async def test_the_list_has_both_media_or_the_one_asked_for(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    gateway.runs_by_itself = True
    await client.post("/v1/videos", json={"prompt": "waves"})
    await client.post("/v1/images/generations", json={"prompt": "a cat"})
    both = (await client.get("/v1/requests")).json()["data"]
    images = (await client.get("/v1/requests", params={"media": "image"})).json()["data"]
    assert sorted(item["media"] for item in both) == ["image", "video"]
    assert [item["media"] for item in images] == ["image"]


async def test_the_event_stream_ends_with_the_request(
    client: httpx.AsyncClient, gateway: FakeGateway, video_id: str
) -> None:
    gateway.start(video_id)
    gateway.complete(video_id)
    reply = await client.get(f"/v1/requests/{video_id}/events")
    names = [name for _, name, _ in events_of(reply.text)]
    assert names[:3] == ["RequestSubmitted", "StageStarted", "StepsFinished"]
    assert names[-1] == "RequestCompleted"
    assert gateway.followers == 0


async def test_the_event_stream_resumes_after_the_last_event_seen(
    client: httpx.AsyncClient, gateway: FakeGateway, video_id: str
) -> None:
    gateway.start(video_id)
    gateway.complete(video_id)
    path = f"/v1/requests/{video_id}/events"
    everything = events_of((await client.get(path)).text)
    seen = everything[2][0]
    by_header = events_of((await client.get(path, headers={"Last-Event-ID": seen})).text)
    by_query = events_of((await client.get(path, params={"after": seen})).text)
    assert by_header == by_query == everything[3:]


async def test_who_has_seen_the_end_is_told_to_stop_reconnecting(
    client: httpx.AsyncClient, gateway: FakeGateway, video_id: str
) -> None:
    gateway.complete(video_id)
    path = f"/v1/requests/{video_id}/events"
    last = events_of((await client.get(path)).text)[-1][0]
    assert (await client.get(path, headers={"Last-Event-ID": last})).status_code == 204


async def test_events_do_not_tell_paths_or_tenants(
    client: httpx.AsyncClient, gateway: FakeGateway, video_id: str
) -> None:
    gateway.complete(video_id)
    text = (await client.get(f"/v1/requests/{video_id}/events")).text
    assert "ArtifactStored" in text
    assert "secret" not in text
    assert "uri" not in text


async def test_event_streams_are_bounded_and_a_closed_one_makes_room(
    gateway: FakeGateway, clock: FakeClock, video_id: str
) -> None:
    settings = Settings(limits=Limits(max_event_streams=1))
    async with a_client(gateway, clock, settings) as client:
        path = f"/v1/requests/{video_id}/events"
        first = asyncio.create_task(client.get(path))
        await gateway.until(lambda: gateway.followers)
        refused = await client.get(path)
        before = len(gateway.rows)
        image = await client.post("/v1/images/generations", json={"prompt": "a cat", "stream": True})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_streams")
        assert (image.status_code, len(gateway.rows)) == (429, before)
        first.cancel()
        await asyncio.wait([first])
        assert gateway.followers == 0
        gateway.complete(video_id)
        assert (await client.get(path)).status_code == 200
