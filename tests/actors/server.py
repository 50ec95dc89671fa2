"""``genserve serve`` as a process of its own, to be called, stopped and killed by tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from genserve.config import load_settings

PATIENCE_S = 120.0
T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


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

    def __init__(self, folder: Path, models_dir: Path, **environ: str) -> None:
        self.port = free_port()
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.environ = {
            "GENSERVE_DATA_DIR": str(folder / "data"),
            "GENSERVE_MODELS_DIR": str(models_dir),
            "GENSERVE_HTTP__PORT": str(self.port),
            "GENSERVE_CLUSTER__DEVICE": "cpu",
            "GENSERVE_DURABILITY__CHECKPOINT_EVERY_STEPS": "5",
            **environ,
        }
        self.settings = load_settings(environ=self.environ)
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """From ready to killed, whatever happens in between."""
        server = self.start()
        try:
            wait_for(lambda: self._is_ready(server), "ready server")
            yield server
        finally:
            kill_with_descendants(server)

    def stop(self) -> int:
        """As somebody at its terminal would; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(PATIENCE_S)

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "genserve", "serve"]
        environ = {**os.environ, **self.environ}
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(command, env=environ, stdout=output, stderr=output, start_new_session=True)
        return self._process

    @property
    def said(self) -> str:
        """Everything on its terminal so far."""
        return self._output.read_text()

    @property
    def _output(self) -> Path:
        return self.folder / "server.log"

    def _is_ready(self, server: subprocess.Popen[bytes]) -> bool:
        assert server.poll() is None, self.said[-3000:]
        return f"genserve: ready: {self.url};" in self.said

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
