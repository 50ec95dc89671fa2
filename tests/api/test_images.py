"""POST /v1/images/generations: blocking and streamed."""

from __future__ import annotations

import asyncio
import base64
import json
from contextvars import ContextVar
from typing import Any

import httpx

from genserve.errors import Unavailable
from tests.api.fake_gateway import FakeGateway

IMAGES = "/v1/images/generations"


def sse(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


async def test_an_image_is_answered_as_base64_by_default(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    reply = await client.post(IMAGES, json={"prompt": "a cat", "seed": 7})
    body = reply.json()
    (spec,) = gateway.specs
    assert reply.status_code == 200
    assert base64.b64decode(body["data"][0]["b64_json"]).decode() == f"image 0 of {spec.request_id}"
    assert (body["size"], body["output_format"], body["created"]) == ("256x256", "png", 1_800_000_000)
    assert reply.headers["genserve-request-ids"] == spec.request_id


async def test_what_is_not_given_comes_from_the_catalog(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    await client.post(IMAGES, json={"prompt": "a cat"})
    (spec,) = gateway.specs
    assert (spec.model, spec.steps, spec.guidance_scale) == ("tiny-sd3", 12, 4.5)
    assert spec.deadline_us == spec.arrival_us + 15_000_000


async def test_everything_given_reaches_the_spec(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    body = {
        "prompt": "a cat",
        "model": "tiny-flux",
        "size": "64x96",
        "negative_prompt": "dog",
        "num_inference_steps": 4,
        "guidance_scale": 2,
        "seed": 5,
        "slo_ms": 1500,
        "priority": -3,
        "user": "u1",
        "output_format": "webp",
    }
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    reply = await client.post(IMAGES, json=body, headers={"traceparent": parent})
    (spec,) = gateway.specs
    assert reply.status_code == 200
    assert (spec.model, spec.shape.width, spec.shape.height, spec.steps) == ("tiny-flux", 64, 96, 4)
    assert (spec.negative_prompt, spec.guidance_scale, spec.seed, spec.priority) == ("dog", 2.0, 5, -3)
    assert (spec.user, spec.output_format, spec.traceparent) == ("u1", "webp", parent)
    assert spec.deadline_us == spec.arrival_us + 1_500_000


async def test_n_images_are_one_submission_with_consecutive_seeds(
    client: httpx.AsyncClient, gateway: FakeGateway
) -> None:
    reply = await client.post(IMAGES, json={"prompt": "cats", "n": 3, "seed": 10})
    assert [item["seed"] for item in reply.json()["data"]] == [10, 11, 12]
    assert [spec.seed for spec in sorted(gateway.specs, key=lambda spec: spec.request_id)] == [10, 11, 12]
    assert len({spec.group_id for spec in gateway.specs}) == 1
    assert gateway.specs[0].group_id.startswith("grp_")


async def test_n_images_that_do_not_all_fit_leave_nothing_behind(
    client: httpx.AsyncClient, gateway: FakeGateway
) -> None:
    gateway.max_queued = 2
    reply = await client.post(IMAGES, json={"prompt": "cats", "n": 3})
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "7")
    assert reply.json()["error"]["type"] == "rate_limit_error"
    assert gateway.rows == {}


async def test_urls_are_answered_on_request_and_can_be_fetched(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    body = {"prompt": "a cat", "response_format": "url", "output_format": "jpeg"}
    url = (await client.post(IMAGES, json=body)).json()["data"][0]["url"]
    image = await client.get(url)
    assert url.startswith("http://genserve.test/v1/images/img_")
    assert (image.headers["content-type"], image.content) == ("image/jpeg", next(iter(gateway.files.values())))


async def test_a_stream_sends_partial_images_and_then_the_image(client: httpx.AsyncClient) -> None:
    reply = await client.post(IMAGES, json={"prompt": "a cat", "stream": True, "partial_images": 2})
    events = sse(reply.text)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["genserve-request-ids"].startswith("img_")
    assert [event["type"] for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [event.get("partial_image_index") for event in events] == [0, 1, None]
    assert base64.b64decode(events[0]["b64_json"]).startswith(b"partial 0 of img_")
    assert base64.b64decode(events[2]["b64_json"]).startswith(b"image 0 of img_")


async def test_a_stream_of_several_images_completes_each_of_them(client: httpx.AsyncClient) -> None:
    reply = await client.post(IMAGES, json={"prompt": "cats", "n": 3, "stream": True, "partial_images": 1})
    completed = [event for event in sse(reply.text) if event["type"] == "image_generation.completed"]
    assert sorted(event["image_index"] for event in completed) == [0, 1, 2]


async def test_a_preview_that_is_made_again_by_the_next_attempt_is_sent_once(
    client: httpx.AsyncClient, gateway: FakeGateway
) -> None:
    gateway.runs_by_itself = False
    call = asyncio.create_task(client.post(IMAGES, json={"prompt": "a cat", "stream": True, "partial_images": 2}))
    await gateway.until(lambda: gateway.followers)
    request_id = gateway.specs[0].request_id
    for index in (0, 0, 1):
        gateway.store(request_id, "partial", "image/png", index)
    gateway.complete(request_id)
    assert [event.get("partial_image_index") for event in sse((await call).text)] == [0, 1, None]


async def test_previews_are_only_made_for_a_stream(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    await client.post(IMAGES, json={"prompt": "a cat", "partial_images": 2})
    assert gateway.specs[0].partial_images == 0


async def test_a_failed_image_is_answered_with_its_code_and_is_not_to_be_repeated(
    client: httpx.AsyncClient, gateway: FakeGateway
) -> None:
    gateway.runs_by_itself = False
    call = asyncio.create_task(client.post(IMAGES, json={"prompt": "a cat"}))
    await gateway.until(lambda: gateway.rows)
    gateway.fail(gateway.specs[0].request_id)
    reply = await call
    assert (reply.status_code, reply.headers["x-should-retry"]) == (500, "false")
    assert reply.json()["error"]["code"] == "out_of_memory"
    assert "no room on w0" in reply.json()["error"]["message"]


async def test_a_failed_image_ends_its_stream_with_an_error_event(
    client: httpx.AsyncClient, gateway: FakeGateway
) -> None:
    gateway.runs_by_itself = False
    call = asyncio.create_task(client.post(IMAGES, json={"prompt": "a cat", "stream": True}))
    await gateway.until(lambda: gateway.followers)
    gateway.fail(gateway.specs[0].request_id)
    assert sse((await call).text)[-1]["error"]["code"] == "out_of_memory"
    assert gateway.followers == 0


async def test_an_image_cancelled_by_somebody_else_is_answered_as_cancelled(
    client: httpx.AsyncClient, gateway: FakeGateway
) -> None:
    gateway.runs_by_itself = False
    call = asyncio.create_task(client.post(IMAGES, json={"prompt": "a cat"}))
    await gateway.until(lambda: gateway.rows)
    await client.delete(f"/v1/requests/{gateway.specs[0].request_id}")
    reply = await call
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "cancelled")


async def test_a_handler_that_is_cancelled_while_waiting_cancels_nothing(
    client: httpx.AsyncClient, gateway: FakeGateway
) -> None:
    gateway.runs_by_itself = False
    call = asyncio.create_task(client.post(IMAGES, json={"prompt": "a cat"}))
    await gateway.until(lambda: gateway.followers)
    call.cancel()
    await asyncio.wait([call])
    assert gateway.followers == 0
    assert gateway.cancels == []
    assert [row.status for row in gateway.rows.values()] == ["waiting"]


async def test_a_handler_that_is_cancelled_while_submitting_still_submits(
    client: httpx.AsyncClient, gateway: FakeGateway
) -> None:
    gateway.runs_by_itself = False
    entered = asyncio.Event()
    submit = gateway.submit

    async def slow_submit(submission: Any) -> tuple[str, ...]:
        entered.set()
        await asyncio.sleep(0)
        return await submit(submission)

    gateway.submit = slow_submit  # type: ignore[method-assign]
    call = asyncio.create_task(client.post(IMAGES, json={"prompt": "a cat"}))
    await entered.wait()
    call.cancel()
    await asyncio.wait([call])
    await gateway.until(lambda: gateway.rows)
    assert len(gateway.rows) == 1


async def test_a_submission_runs_in_a_context_of_its_own_that_no_cancel_of_the_handler_reaches(
    client: httpx.AsyncClient, gateway: FakeGateway
) -> None:
    of_the_handler = ContextVar("of_the_handler", default=False)
    of_the_handler.set(True)
    seen = []
    submit = gateway.submit

    async def watched_submit(submission: Any) -> tuple[str, ...]:
        seen.append(of_the_handler.get())
        return await submit(submission)

    gateway.submit = watched_submit  # type: ignore[method-assign]
    await client.post(IMAGES, json={"prompt": "a cat"})
    assert seen == [False]


async def test_an_outage_while_a_call_waits_is_sat_out(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    gateway.runs_by_itself = False
    call = asyncio.create_task(client.post(IMAGES, json={"prompt": "a cat"}))
    await gateway.until(lambda: gateway.followers)
    request_id = gateway.specs[0].request_id
    gateway.outage = Unavailable("scheduler_unavailable", "restarting", None, 0.01)
    gateway.start(request_id)
    await gateway.until(lambda: gateway.followers == 0)
    gateway.outage = None
    gateway.complete(request_id)
    assert (await call).status_code == 200


async def test_a_repeated_call_with_the_same_key_gets_the_same_images(
    client: httpx.AsyncClient, gateway: FakeGateway
) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await client.post(IMAGES, json={"prompt": "a cat", "n": 2}, headers=headers)
    second = await client.post(IMAGES, json={"n": 2, "prompt": "a cat"}, headers=headers)
    other = await client.post(IMAGES, json={"prompt": "a dog", "n": 2}, headers=headers)
    assert first.json()["data"] == second.json()["data"]
    assert len(gateway.rows) == 2
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
