"""A server is stopped by signals, whatever it is doing."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from actors import app
from genserve.config import Settings


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_during_the_start_stops_what_has_been_started(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    class SlowCell(app.Cell):
        async def start(self) -> None:
            done.append("start")
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()

        async def stop(self) -> None:
            done.append("stop")

    monkeypatch.setattr(app, "Cell", SlowCell)
    await app.serve_forever(Settings(), done.append)
    assert done == ["start", "stopping", "stop"]


async def test_a_start_that_fails_stops_what_has_been_started_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class BrokenCell(app.Cell):
        async def start(self) -> None:
            raise ConnectionError("no database")

        async def stop(self) -> None:
            done.append("stop")

    monkeypatch.setattr(app, "Cell", BrokenCell)
    with pytest.raises(ConnectionError, match="no database"):
        await app.serve_forever(Settings(), done.append)
    assert done == ["stop"]
