"""Health, metrics, outages, bugs, models and start-up."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest

from genserve.errors import InvariantBroken, Unavailable
from tests.api.fake_gateway import FakeGateway


async def test_health_is_ok_while_scheduler_and_workers_are(client: httpx.AsyncClient) -> None:
    reply = await client.get("/health")
    assert (reply.status_code, reply.json()["status"], reply.json()["workers"]) == (200, "ok", 2)


async def test_health_is_503_without_workers_or_scheduler(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    gateway.is_healthy = False
    lost = await client.get("/health")
    gateway.outage = Unavailable("scheduler_unavailable", "no scheduler")
    away = await client.get("/health")
    assert (lost.status_code, lost.json()["scheduler"], lost.json()["error"]["code"]) == (503, "lost", "not_healthy")
    assert (away.status_code, away.json()["scheduler"]) == (503, "no scheduler")
    assert away.headers["retry-after"] == "1"


async def test_metrics_are_in_prometheus_text(client: httpx.AsyncClient) -> None:
    reply = await client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "genserve_requests_running 0" in reply.text


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/requests/x", "/v1/videos/x"])
async def test_an_outage_is_503_with_retry_after(client: httpx.AsyncClient, gateway: FakeGateway, path: str) -> None:
    gateway.outage = Unavailable("journal_unavailable", "the database is away", None, 3.2)
    reply = await client.get(path)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "4")
    assert reply.json()["error"] == {
        "message": "the database is away",
        "type": "server_error",
        "param": None,
        "code": "journal_unavailable",
    }


async def test_a_bug_is_answered_without_its_details(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    gateway.outage = InvariantBroken("version_gap", "internal names and numbers")
    reply = await client.get("/v1/videos")
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "version_gap")
    assert "internal names" not in reply.text


async def test_an_unexpected_exception_is_answered_in_the_envelope_too(
    client: httpx.AsyncClient, gateway: FakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.outage = ZeroDivisionError("secret")  # type: ignore[assignment]
    reply = await client.get("/v1/videos")
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in reply.text
    assert "ZeroDivisionError" in caplog.text


async def test_models_tell_their_limits(client: httpx.AsyncClient) -> None:
    model = (await client.get("/v1/models/tiny-wan")).json()
    assert (model["id"], model["media"], model["limits"]["num_frames"]) == ("tiny-wan", "video", [1, 49])


async def test_the_documentation_shows_our_fields(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    body = schema["paths"]["/v1/videos"]["post"]["requestBody"]["content"]
    assert body.keys() == {"application/json", "multipart/form-data"}
    assert "slo_ms" in body["application/json"]["schema"]["properties"]


def test_the_surface_starts_without_torch_diffusers_or_ray() -> None:
    script = (
        "import sys, genserve.api; loaded = {name.partition('.')[0] for name in sys.modules}; "
        "print(sorted({'torch', 'diffusers', 'transformers', 'ray'} & loaded))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
