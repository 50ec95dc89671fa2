"""The whole server killed in the middle of denoising and started again on the same database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from genserve.audit.replay import replay
from genserve.domain import events as e
from genserve.domain.ids import request_stream
from genserve.journal.contract import Reader
from genserve.journal.open import open_reader
from tests.actors.real_models import a_tiny_image, a_tiny_video, expected_pixels
from tests.actors.server import Server, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.models, pytest.mark.timeout(300)]


def video_body() -> dict[str, Any]:
    spec = a_tiny_video("x", 0, steps=100)
    return {
        "model": spec.model,
        "prompt": spec.prompt,
        "size": f"{spec.shape.width}x{spec.shape.height}",
        "num_frames": spec.shape.frames,
        "fps": spec.fps,
        "num_inference_steps": spec.steps,
        "guidance_scale": spec.guidance_scale,
        "seed": spec.seed,
        "slo_ms": 3_600_000,
    }


def image_body() -> dict[str, Any]:
    spec = a_tiny_image("x", 0, steps=100)
    return {
        "model": spec.model,
        "prompt": spec.prompt,
        "size": f"{spec.shape.width}x{spec.shape.height}",
        "num_inference_steps": spec.steps,
        "guidance_scale": spec.guidance_scale,
        "seed": spec.seed,
        "slo_ms": 3_600_000,
    }


def find_event(reader: Reader, request_id: str, kind: type[e.Event]) -> e.Event | None:
    history = reader.read_stream(request_stream(request_id))
    return next((r.event for r in history if isinstance(r.event, kind)), None)


def submitted(reader: Reader, media: str) -> str | None:
    rows = reader.list_requests(media)
    return rows[0].request_id if rows else None


def stored(reader: Reader, request_id: str) -> tuple[str, ...]:
    history = reader.read_stream(request_stream(request_id))
    return tuple(r.event.artifact.sha256 for r in history if isinstance(r.event, e.ArtifactStored))


def test_a_server_killed_while_denoising_goes_on_from_its_database(tmp_path: Path, models_dir: Path) -> None:
    server = Server(tmp_path, models_dir)
    with ThreadPoolExecutor(1) as background:
        with server.running():
            reader = open_reader(server.settings.database)
            answer = server.post("/v1/videos", video_body())
            assert answer.status_code == 200, answer.text
            video = answer.json()["id"]
            lost_call = background.submit(server.post, "/v1/images/generations", image_body())
            image = wait_for(lambda: submitted(reader, "image"), "image in the log")
            for request_id in (video, image):
                wait_for(lambda r=request_id: find_event(reader, r, e.LatentsCheckpointed), "checkpoint")
        assert isinstance(lost_call.exception(), httpx.TransportError)
    assert find_event(reader, video, e.RequestCompleted) is None
    assert find_event(reader, image, e.RequestCompleted) is None

    with server.running():
        assert server.wait_for_end(video) == "completed"
        assert server.wait_for_end(image) == "completed"

    assert stored(reader, video) == expected_pixels(models_dir, a_tiny_video("x", 0, steps=100))
    assert stored(reader, image) == expected_pixels(models_dir, a_tiny_image("x", 0, steps=100))
    report = replay(reader.read(0, 100_000))
    assert report.is_clean, f"{report.first} {report.violations}"
    reader.close()
