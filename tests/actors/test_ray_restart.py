"""The whole server killed in the middle of denoising and started again on the same database."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest

from genserve.audit.replay import replay
from genserve.config import load_settings
from genserve.domain import events as e
from genserve.domain.ids import request_stream
from genserve.journal.contract import Reader
from genserve.journal.open import open_reader
from tests.actors.real_models import a_tiny_image, a_tiny_video, expected_pixels

pytestmark = [pytest.mark.ray, pytest.mark.models, pytest.mark.timeout(300)]
PATIENCE_S = 120.0
T = TypeVar("T")


def wait_for(find: Callable[[], T | None], what: str) -> T:
    """The first answer that is something; asks as often as a client would."""
    patience = time.monotonic() + PATIENCE_S
    while time.monotonic() < patience:
        found = find()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"no {what} after {PATIENCE_S:.0f} s")


class Server:
    """``genserve serve`` as a process of its own, with Ray's processes below it."""

    def __init__(self, folder: Path, models_dir: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.environ = {
            "GENSERVE_DATA_DIR": str(folder / "data"),
            "GENSERVE_MODELS_DIR": str(models_dir),
            "GENSERVE_HTTP__PORT": str(self.port),
            "GENSERVE_CLUSTER__DEVICE": "cpu",
            "GENSERVE_DURABILITY__CHECKPOINT_EVERY_STEPS": "5",
        }
        self.settings = load_settings(environ=self.environ)
        self.url = f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """From ready to killed, whatever happens in between."""
        command = [sys.executable, "-m", "genserve", "serve"]
        environ = {**os.environ, **self.environ}
        with (self.folder / "server.log").open("ab") as output:
            server = subprocess.Popen(command, env=environ, stdout=output, stderr=output, start_new_session=True)
        try:
            wait_for(lambda: self._is_ready(server), "ready server")
            yield server
        finally:
            kill_with_descendants(server)

    def _is_ready(self, server: subprocess.Popen[bytes]) -> bool:
        assert server.poll() is None, (self.folder / "server.log").read_text()[-3000:]
        try:
            return httpx.get(f"{self.url}/health", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=PATIENCE_S)

    def status(self, request_id: str) -> str:
        answer = httpx.get(f"{self.url}/v1/requests/{request_id}", timeout=10)
        return str(answer.raise_for_status().json()["status"])

    def wait_for_end(self, request_id: str) -> str:
        def find() -> str | None:
            status = self.status(request_id)
            return status if status in ("completed", "failed", "cancelled") else None

        return wait_for(find, f"end of {request_id}")


def kill_with_descendants(server: subprocess.Popen[bytes]) -> None:
    """SIGKILL the server and every process that it started, Ray's daemons and actors included."""
    try:
        family = [*psutil.Process(server.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    server.send_signal(signal.SIGKILL)
    server.wait()
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=PATIENCE_S)


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
