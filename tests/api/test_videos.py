"""/v1/videos: jobs as OpenAI has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from genserve.errors import Unavailable
from genserve.scheduling.gateway import Forecast
from tests.api.fake_gateway import FakeClock, FakeGateway


@pytest.fixture
def gateway(gateway: FakeGateway) -> FakeGateway:
    """Driven by hand in this file."""
    gateway.runs_by_itself = False
    return gateway


async def create(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    reply = await client.post("/v1/videos", json={"prompt": "waves", **fields})
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


async def test_a_job_is_answered_at_once_with_status_200(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    job = await create(client, seconds="2", size="64x48")
    assert job == {
        "id": gateway.specs[0].request_id,
        "object": "video",
        "model": "tiny-wan",
        "status": "queued",
        "progress": 0,
        "created_at": 1_800_000_000,
        "completed_at": None,
        "expires_at": None,
        "error": None,
        "prompt": "waves",
        "remixed_from_video_id": None,
        "seconds": "2",
        "size": "64x48",
    }


async def test_a_recorded_job_is_acknowledged_even_if_it_cannot_be_read_back(
    client: httpx.AsyncClient, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(request_id: str) -> None:
        raise Unavailable("journal_unavailable", f"no reader for {request_id}")

    monkeypatch.setattr(gateway, "find_request", away)
    job = await create(client)
    assert (job["id"], job["status"]) == (gateway.specs[0].request_id, "queued")


async def test_a_form_is_as_good_as_json(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    fields = {"prompt": "waves", "seconds": "1", "width": "64", "height": "32", "guidance_scale": "2.5", "seed": "4"}
    reply = await client.post("/v1/videos", files={name: (None, value) for name, value in fields.items()})
    (spec,) = gateway.specs
    assert reply.status_code == 200
    assert (spec.shape.width, spec.shape.height, spec.shape.frames, spec.guidance_scale, spec.seed) == (
        (64, 32, 9, 2.5, 4)
    )


async def test_a_form_and_json_with_the_same_fields_are_the_same_call(
    client: httpx.AsyncClient, gateway: FakeGateway
) -> None:
    headers = {"Idempotency-Key": "k"}
    first = await client.post("/v1/videos", json={"prompt": "waves", "seconds": "1"}, headers=headers)
    fields = {"prompt": (None, "waves"), "seconds": (None, "1")}
    second = await client.post("/v1/videos", files=fields, headers=headers)
    assert first.json()["id"] == second.json()["id"]


@pytest.mark.parametrize(
    ("fields", "frames", "fps", "seconds"),
    [
        ({}, 17, 8, "2"),
        ({"seconds": "4"}, 33, 8, "4"),
        ({"seconds": 1}, 9, 8, "1"),
        ({"seconds": "1.2"}, 9, 8, "1"),
        ({"seconds": "2", "fps": 16}, 33, 16, "2"),
        ({"num_frames": 5}, 5, 8, "0.5"),
        ({"num_frames": 49, "fps": 24}, 49, 24, "2"),
    ],
)
async def test_seconds_become_frames_that_the_family_can_do(
    client: httpx.AsyncClient, gateway: FakeGateway, fields: dict[str, Any], frames: int, fps: int, seconds: str
) -> None:
    job = await create(client, **fields)
    assert (gateway.specs[0].shape.frames, gateway.specs[0].fps, job["seconds"]) == (frames, fps, seconds)


async def test_progress_follows_the_steps_and_status_the_truth(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    video_id = (await create(client, num_inference_steps=8))["id"]
    seen = []
    acts: list[Callable[[], None]] = [
        lambda: None,
        lambda: gateway.start(video_id),
        lambda: gateway.step(video_id, 2),
        lambda: gateway.step(video_id, 8),
        lambda: gateway.complete(video_id),
    ]
    for act in acts:
        act()
        job = (await client.get(f"/v1/videos/{video_id}")).json()
        seen.append((job["status"], job["progress"]))
    assert seen == [("queued", 0), ("in_progress", 0), ("in_progress", 25), ("in_progress", 99), ("completed", 100)]
    assert job["completed_at"] == 1_800_000_000


@pytest.mark.parametrize(("left_ms", "wait_ms"), [(8_000, "1000"), (0, "100"), (-5_000, "100"), (600_000, "10000")])
async def test_the_poll_interval_is_an_eighth_of_what_the_forecast_says(
    client: httpx.AsyncClient, gateway: FakeGateway, clock: FakeClock, left_ms: int, wait_ms: str
) -> None:
    video_id = (await create(client))["id"]
    eta_us = clock.now_us + left_ms * 1000
    gateway.forecasts[video_id] = Forecast(eta_us, eta_us + 1, True)
    reply = await client.get(f"/v1/videos/{video_id}")
    assert reply.headers["openai-poll-after-ms"] == wait_ms


async def test_a_failed_job_is_told_with_status_200_and_its_reason(
    client: httpx.AsyncClient, gateway: FakeGateway
) -> None:
    video_id = (await create(client))["id"]
    gateway.fail(video_id)
    reply = await client.get(f"/v1/videos/{video_id}")
    assert (reply.status_code, reply.json()["status"]) == (200, "failed")
    assert reply.json()["error"]["code"] == "out_of_memory"
    assert "openai-poll-after-ms" not in reply.headers


async def test_content_has_three_variants(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    video_id = (await create(client))["id"]
    gateway.complete(video_id)
    types = {}
    for variant in ("video", "thumbnail", "spritesheet"):
        reply = await client.get(f"/v1/videos/{video_id}/content", params={"variant": variant})
        types[variant] = reply.headers["content-type"]
        assert reply.content == f"{variant} 0 of {video_id}".encode()
    assert types == {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg"}
    assert (await client.get(f"/v1/videos/{video_id}/content")).content.startswith(b"video 0")


async def test_content_of_a_job_that_runs_is_not_ready_and_says_for_how_long(
    client: httpx.AsyncClient, gateway: FakeGateway, clock: FakeClock
) -> None:
    video_id = (await create(client))["id"]
    gateway.forecasts[video_id] = Forecast(clock.now_us + 12_500_000, clock.now_us, False)
    reply = await client.get(f"/v1/videos/{video_id}/content")
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "not_ready")
    assert (reply.headers["retry-after"], reply.headers["x-should-retry"]) == ("13", "false")
    assert "0 of 16 steps" in reply.json()["error"]["message"]


async def test_content_of_a_failed_job_says_why_there_is_none(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    video_id = (await create(client))["id"]
    gateway.fail(video_id)
    error = (await client.get(f"/v1/videos/{video_id}/content")).json()["error"]
    assert error["code"] == "no_result"
    assert "no room on w0" in error["message"]


async def test_delete_cancels_a_running_job_and_takes_it_off_the_list(
    client: httpx.AsyncClient, gateway: FakeGateway
) -> None:
    video_id = (await create(client))["id"]
    gateway.start(video_id)
    for _ in range(2):
        reply = await client.delete(f"/v1/videos/{video_id}")
        assert reply.json() == {"id": video_id, "deleted": True, "object": "video.deleted"}
    assert gateway.cancels == [(video_id, "deleted")]
    assert (await client.get("/v1/videos")).json()["data"] == []


async def test_a_poller_of_a_deleted_job_finds_it_failed_with_code_cancelled(
    client: httpx.AsyncClient, gateway: FakeGateway
) -> None:
    video_id = (await create(client))["id"]
    await client.delete(f"/v1/videos/{video_id}")
    job = (await client.get(f"/v1/videos/{video_id}")).json()
    assert (job["status"], job["error"]["code"]) == ("failed", "cancelled")


async def test_a_deleted_result_is_gone(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    video_id = (await create(client))["id"]
    gateway.complete(video_id)
    await client.delete(f"/v1/videos/{video_id}")
    for path in (f"/v1/videos/{video_id}", f"/v1/videos/{video_id}/content"):
        reply = await client.get(path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "video_not_found")
    assert gateway.cancels == []


async def test_the_list_is_paged_in_either_order(client: httpx.AsyncClient, clock: FakeClock) -> None:
    ids = []
    for _ in range(5):
        clock.now_us += 1_000
        ids.append((await create(client))["id"])
    await client.post("/v1/images/generations", json={"prompt": "no video", "stream": False, "n": 0})
    first = (await client.get("/v1/videos", params={"limit": 2})).json()
    second = (await client.get("/v1/videos", params={"limit": 3, "after": first["last_id"]})).json()
    oldest = (await client.get("/v1/videos", params={"order": "asc", "limit": 1})).json()
    assert [job["id"] for job in first["data"]] == [ids[4], ids[3]]
    assert [job["id"] for job in second["data"]] == [ids[2], ids[1], ids[0]]
    assert (first["has_more"], second["has_more"], oldest["data"][0]["id"]) == (True, False, ids[0])
