"""What one worker holds on its way to another of the same node: straight from process to process, not by actor calls.

The taker expects a delivery by name on its event loop; the giver calls and sends from a thread of its own. The taker's
last byte says that everything has come: until then the giver keeps what it gives.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator, Mapping
from typing import Any

import msgspec

from genserve.diffusion.wires import HEAD, LOCALHOST, NAME, Wire
from genserve.scheduling import protocol as p

Delivered = tuple[p.Left | None, dict[int, p.Content]]
"""Who left early, and contents by their number in the wish."""

LAST = -1
"""Ahead of who left early; other words are contents, by their number in the wish."""
RECEIPT = b"\1"


class Inbox:
    """Plain object inside a worker, used on its event loop."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._expected: dict[str, asyncio.Future[Delivered]] = {}

    async def open(self) -> int:
        """The port that deliveries are sent to."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: _Delivery(self._expected), LOCALHOST, 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @contextlib.contextmanager
    def expecting(self, name: str) -> Generator[asyncio.Future[Delivered]]:
        """What comes by that name, for as long as somebody waits for it."""
        self._expected[name] = asyncio.get_running_loop().create_future()
        try:
            yield self._expected[name]
        finally:
            self._expected.pop(name).cancel()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


class _Delivery(asyncio.BufferedProtocol):
    """One call: bytes go where they are to stay as they come."""

    def __init__(self, expected: Mapping[str, asyncio.Future[Delivered]]) -> None:
        self._expected = expected
        self._transport: Any = None
        self._reader = self._read()
        self._part = bytearray(next(self._reader))
        self._done = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._part)[self._done :]

    def buffer_updated(self, count: int) -> None:
        self._done += count
        if self._done == len(self._part):
            try:
                self._part, self._done = bytearray(self._reader.send(self._part)), 0
            except StopIteration:
                self._transport.close()

    def _read(self) -> Generator[int, bytearray]:
        """Asks for so many bytes and is sent them, none where none are needed; ends with the call."""
        name = yield NAME.unpack((yield NAME.size))[0]
        contents: dict[int, p.Content] = {}
        while True:
            code, length = HEAD.unpack((yield HEAD.size))
            content = (yield length) if length else bytearray()
            delivery = self._expected.get(name.decode(errors="replace"))
            if delivery is None or delivery.done():
                return
            if code == LAST:
                break
            contents[code] = content
        delivery.set_result((msgspec.msgpack.decode(content, type=p.Left | None), contents))
        self._transport.write(RECEIPT)


def deliver(wire: Wire, left: p.Left | None, contents: Mapping[int, p.Content]) -> None:
    """Send everything and wait for the receipt; raises OSError where there is none."""
    for number, content in contents.items():
        wire.send(number, content)
    wire.send(LAST, msgspec.msgpack.encode(left))
    wire.fill(memoryview(bytearray(len(RECEIPT))))
