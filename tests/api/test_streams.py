"""Event streams over a real connection: heartbeats, outages and clients that leave."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from genserve.errors import Unavailable
from tests.api.conftest import Served


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether the server's thread makes it so within two seconds."""
    end = time.monotonic() + 2
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def test_a_silent_stream_sends_heartbeats_and_a_client_that_leaves_ends_its_subscription(served: Served) -> None:
    served.gateway.step_s = 60.0
    with httpx.Client(base_url=served.url) as client:
        video_id = client.post("/v1/videos", json={"prompt": "waves"}).json()["id"]
        with client.stream("GET", f"/v1/requests/{video_id}/events") as reply:
            lines = reply.iter_lines()
            assert next(line for line in lines if line == ": still here")
            assert served.gateway.followers == 1
        assert eventually(lambda: served.gateway.followers == 0)
        assert client.get(f"/v1/requests/{video_id}").json()["status"] == "running"


def test_a_client_that_leaves_an_image_stream_loses_nothing(served: Served) -> None:
    served.gateway.step_s = 0.01
    with httpx.Client(base_url=served.url) as client:
        body = {"prompt": "a cat", "stream": True, "partial_images": 1}
        with client.stream("POST", "/v1/images/generations", json=body) as reply:
            request_id = reply.headers["genserve-request-ids"]
            next(reply.iter_lines())
        assert eventually(lambda: served.gateway.rows[request_id].status == "completed")
        assert client.get(f"/v1/images/{request_id}/content").status_code == 200
    assert served.gateway.cancels == []


def test_an_event_stream_sits_out_a_restart_of_the_scheduler(served: Served) -> None:
    served.gateway.step_s = 0.01
    with httpx.Client(base_url=served.url) as client:
        video_id = client.post("/v1/videos", json={"prompt": "waves"}).json()["id"]
        with client.stream("GET", f"/v1/requests/{video_id}/events") as reply:
            lines = reply.iter_lines()
            assert next(line for line in lines if line == "event: StepsFinished")
            served.gateway.outage = Unavailable("scheduler_unavailable", "restarting", None, 0.05)
            assert eventually(lambda: served.gateway.followers == 0)
            served.gateway.outage = None
            rest = list(lines)
    steps = [line for line in rest if line == "event: StepsFinished"]
    assert rest.count("event: RequestCompleted") == 1
    assert len(steps) == 16
