"""What one worker holds on its way to another of the same node: straight from process to process, not by actor calls.

The taker expects a delivery by name on its event loop; the giver calls and sends from a thread of its own. The taker's
last byte says that everything has come: until then the giver keeps what it gives.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

import msgspec

from genserve.diffusion.wires import HEAD, LOCALHOST, NAME, Wire, room
from genserve.scheduling import protocol as p
from genserve.scheduling.runner import Offer, Runner
from observability.logging import get_logger

Delivered = tuple[p.Left | None, Mapping[int, Future[p.Content]]]
"""Who left early, and by their numbers in the wish the contents that follow."""

LEFT, CONTENT = 1, 2
"""The giver's words: the first one, and one for each of the contents."""
RECEIPT = b"\1"
MAX_CALLS = 1_000
"""Deliveries that may be under way at once, or be only connections that say nothing."""


class Inbox:
    """Plain object inside a worker, used on its event loop."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._expected: dict[str, asyncio.Future[Delivered]] = {}
        self._calls: set[_Delivery] = set()

    async def open(self) -> int:
        """The port that deliveries are sent to."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: _Delivery(self._expected, self._calls), LOCALHOST, 0)
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

    async def close(self) -> None:
        """Whatever is on its way is not coming."""
        if self._server is not None:
            self._server.close()
        for delivery in (calls := tuple(self._calls)):
            delivery.break_off()
        await asyncio.gather(*(delivery.is_over.wait() for delivery in calls))


class _Delivery(asyncio.BufferedProtocol):
    """One call: bytes go where they are to stay as they come."""

    def __init__(self, expected: Mapping[str, asyncio.Future[Delivered]], calls: set[_Delivery]) -> None:
        self._expected = expected
        self._calls = calls
        self.is_over = asyncio.Event()
        self._transport: Any = None
        self._reader = self._read()
        self._part = room(next(self._reader))
        self._coming: dict[int, Future[p.Content]] = {}
        self._done = 0

    def break_off(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._calls.add(self)
        if len(self._calls) > MAX_CALLS:
            self.break_off()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._part[self._done :]

    def buffer_updated(self, count: int) -> None:
        self._done += count
        if self._done == len(self._part):
            try:
                self._part, self._done = room(self._reader.send(self._part)), 0
            except StopIteration:
                self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._calls.discard(self)
        self.is_over.set()
        for content in self._coming.values():
            if not content.done():
                content.set_exception(ConnectionResetError("the giver has gone"))

    def _read(self) -> Generator[int, memoryview]:
        """Asks for so many bytes and is sent them; ends with the call."""
        name = yield NAME.unpack((yield NAME.size))[0]
        delivery = self._expected.get(bytes(name).decode(errors="replace"))
        if delivery is None:
            return
        _, length = HEAD.unpack((yield HEAD.size))
        left, numbers = msgspec.msgpack.decode((yield length), type=tuple[p.Left | None, tuple[int, ...]])
        if delivery.done():
            return
        self._coming = {number: Future() for number in numbers}
        delivery.set_result((left, self._coming))
        for content in self._coming.values():
            _, length = HEAD.unpack((yield HEAD.size))
            content.set_result((yield length))
        self._transport.write(RECEIPT)


class Errand:
    """One wish on its way to being fulfilled. What is held is sent from whichever thread knows first that it is due.

    ``wire`` None: there is none, what is held is the answer.
    """

    def __init__(self, wish: p.HandOver, runner: Runner, wire: Wire | None) -> None:
        self._wish = wish
        self._runner = runner
        self._wire = wire
        self._given: tuple[tuple[str, int], ...] | None = None

    def send(self, left: p.Left | None) -> tuple[str, ...]:
        """What is due, once; whose it is. Nothing is raised: without a receipt everything stays here."""
        assert self._wire is not None, "there is somebody to send it to"
        offers = self._due(left)
        self._given = tuple(self._wish.requests[number] for number in offers)
        try:
            self._wire.send(LEFT, msgspec.msgpack.encode((left, tuple(offers))))
            for offer in offers.values():
                self._wire.send(CONTENT, b"", *offer())
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            get_logger("genserve.worker").warning("broke off giving", name=self._wish.name, reason=reason)
            self._wire.close()
            return ()
        return tuple(request_id for request_id, _ in self._given)

    def finish(self, left: p.Left | None) -> p.HandedOver | None:
        """The answer to the wish, None where everything has come to whoever wished; what was given is forgotten."""
        if self._wire is None:
            contents = {self._wish.requests[n]: b"".join(offer()) for n, offer in self._due(left).items()}
            self._forget(contents)
            return p.HandedOver(left, {request_id: content for (request_id, _), content in contents.items()})
        if self._given is None:
            self.send(left)
        try:
            self._wire.fill(memoryview(bytearray(len(RECEIPT))))
        except OSError:
            return p.HandedOver(left)
        self._forget(self._given or ())
        return None

    def _due(self, left: p.Left | None) -> dict[int, Offer]:
        """By their numbers, what is held of those who come."""
        if left is None:
            return {}
        wished = self._wish.requests
        parted = left.parted((request_id for request_id, _ in wished), is_open=self._wish.is_open)
        offers = {n: self._runner.offer(*one) for n, one in enumerate(wished) if one[0] not in parted}
        return {number: offer for number, offer in offers.items() if offer is not None}

    def _forget(self, given: Iterable[tuple[str, int]]) -> None:
        for request_id, attempt in given:
            if self._runner.holds(request_id, attempt):
                self._runner.forget(request_id)
