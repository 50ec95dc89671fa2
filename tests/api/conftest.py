"""The app over a fake gateway: in this process (client), and on a loopback port (served)."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import uvicorn

from genserve.api import create_app
from genserve.config import Settings
from genserve.diffusion.catalog import Catalog
from tests.api.fake_gateway import FakeClock, FakeGateway


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def gateway(clock: FakeClock) -> AsyncIterator[FakeGateway]:
    fake = FakeGateway(clock)
    yield fake
    await fake.stop()


@pytest.fixture
async def client(gateway: FakeGateway, clock: FakeClock) -> AsyncIterator[httpx.AsyncClient]:
    async with a_client(gateway, clock, Settings()) as connected:
        yield connected


def a_client(gateway: FakeGateway, clock: FakeClock, settings: Settings) -> httpx.AsyncClient:
    app = create_app(gateway, Catalog.load(), settings, clock=clock)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://genserve.test")


class Served:
    """A server with its own thread and event loop; ``gateway`` is only for reading, and for before and after."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.clock = FakeClock()
        self.gateway = FakeGateway(self.clock)
        app = create_app(self.gateway, Catalog.load(), settings or Settings(), clock=self.clock, heartbeat_s=0.05)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, ws="none", lifespan="off")
        self._server = uvicorn.Server(config)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._server.serve(sockets=[self._listening]))

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listening.close()


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served()
    yield server
    server.close()
