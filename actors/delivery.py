"""What one worker holds on its way to another of the same node: straight from process to process, not by actor calls.

The taker hears on its event loop that a delivery has begun; the thread that needs what comes reads it from there. The
giver calls and sends from threads too. The taker's last byte says that everything is there: until then the giver keeps
what it gives.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import Any

import msgspec

from genserve.diffusion.wires import BUSY_S, HEAD, LOCALHOST, NAME, SEND_S, Fill, Wire
from genserve.scheduling import protocol as p
from genserve.scheduling.runner import Offer, Ready, Runner
from observability.logging import get_logger

Receive = Callable[[int, p.Content, Fill], Ready]
"""Takes in what comes, by its number in the wish: the first piece, and where the others come from."""

BEGINNING = tuple[p.Left | None, tuple[int, ...]]
"""What the first word says: who left early, and the numbers of what follows."""
LEFT, CONTENT = 1, 2
"""The giver's words: the first one, and one for each of the contents."""
RECEIPT = b"\1"
SETTLE_S = 0.005
"""How long the giver's step thread waits for its receipt."""
MAX_WORD = 1 << 20
MAX_CALLS = 1_000
"""Deliveries that may be under way at once, or be only connections that say nothing."""


class Delivery:
    """What has begun to come; whoever needs it first takes it in, on any thread but the event loop's."""

    def __init__(self, left: p.Left | None, numbers: tuple[int, ...], wire: Wire, receive: Receive) -> None:
        self.left = left
        """Who left early; None where the segment before will not run."""
        self.numbers = numbers
        self._wire = wire
        self._receive = receive
        self._come: dict[int, Ready] = {}
        self._lock = threading.Lock()
        self._finish()

    @property
    def has_come(self) -> bool:
        """All of it."""
        return len(self._come) == len(self.numbers)

    def hold(self, number: int) -> None:
        """Returns when that one has come and is held; raises OSError where it does not, or what taking it in did."""
        with self._lock:
            while number not in self._come:
                self._take_next()
        self._come[number]()

    def take_in(self) -> None:
        """So that the giver need not wait; raises as ``hold``."""
        with self._lock:
            while not self.has_come:
                self._take_next()

    def _take_next(self) -> None:
        number = self.numbers[len(self._come)]
        try:
            self._come[number] = self._receive(number, self._wire.receive(SEND_S)[1], self._wire.fill)
        except BaseException:
            self._wire.close()
            raise
        self._finish()

    def _finish(self) -> None:
        if self.has_come:
            with contextlib.suppress(OSError):
                self._wire.send_buffer(memoryview(RECEIPT))


class Inbox:
    """Plain object inside a worker, used on its event loop."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._expected: dict[str, tuple[Receive, asyncio.Future[Delivery]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> int:
        """The port that deliveries are sent to."""
        if self._socket is None:
            self._socket = socket.create_server((LOCALHOST, 0), backlog=MAX_CALLS)
            self._socket.setblocking(False)
            self._listen(self._socket)
        port: int = self._socket.getsockname()[1]
        return port

    @contextlib.contextmanager
    def expecting(self, name: str, receive: Receive) -> Generator[asyncio.Future[Delivery]]:
        """What comes by that name, for as long as somebody waits for it."""
        delivery: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        self._expected[name] = receive, delivery
        try:
            yield delivery
        finally:
            del self._expected[name]
            delivery.cancel()

    async def close(self) -> None:
        """What has not begun to come is not coming."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _listen(self, listener: socket.socket) -> None:
        """Not as a task: one that is cancelled as somebody calls loses the caller."""
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            caller, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError:
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(BUSY_S, self._listen, listener)
        else:
            self._greet(caller)

    def _greet(self, caller: socket.socket) -> None:
        wire = Wire(caller)
        if len(self._tasks) < MAX_CALLS:
            self._start(self._hear(caller, wire))

    async def _hear(self, caller: socket.socket, wire: Wire) -> None:
        """Until the delivery begins. A wire that nobody keeps is closed."""
        caller.setblocking(False)
        with contextlib.suppress(OSError, ValueError, msgspec.DecodeError):
            name = await _read(caller, NAME.unpack(await _read(caller, NAME.size))[0])
            receive, delivery = self._expected.get(name.decode(errors="replace"), (None, None))
            if receive is None or delivery is None:
                return
            _, length = HEAD.unpack(await _read(caller, HEAD.size))
            left, numbers = msgspec.msgpack.decode(await _read(caller, length), type=BEGINNING)
            if not delivery.done():
                delivery.set_result(Delivery(left, numbers, wire, receive))


async def _read(caller: socket.socket, size: int) -> bytearray:
    """Raises ConnectionResetError, or ValueError for more than a word may have."""
    if not 0 <= size <= MAX_WORD:
        raise ValueError(f"a word of {size} bytes")
    memory, done = bytearray(size), 0
    while done < size:
        count = await asyncio.get_running_loop().sock_recv_into(caller, memoryview(memory)[done:])
        if count == 0:
            raise ConnectionResetError("the giver has gone")
        done += count
    return memory


class Errand:
    """One wish on its way to being fulfilled. What is held is sent from whichever thread knows first that it is due.

    ``wire`` None: there is none, what is held is the answer.
    """

    def __init__(self, wish: p.HandOver, runner: Runner, wire: Wire | None) -> None:
        self._wish = wish
        self._runner = runner
        self._wire = wire
        self._given: tuple[tuple[str, int], ...] | None = None
        self._is_settled = False

    def send(self, left: p.Left | None) -> tuple[str, ...]:
        """What is due, once; whose it is. Nothing is raised: without a receipt everything stays here.

        A receipt is waited for a little: whoever goes on comes before this one's paperwork, and what is forgotten then
        makes room for what runs here next.
        """
        assert self._wire is not None, "there is somebody to send it to"
        offers = self._due(left)
        self._given = tuple(self._wish.requests[number] for number in offers)
        try:
            self._wire.send(LEFT, msgspec.msgpack.encode((left, tuple(offers))))
            for offer in offers.values():
                first, *others = offer()
                self._wire.send(CONTENT, first)
                for piece in others:
                    self._wire.send_buffer(memoryview(piece))
            with contextlib.suppress(TimeoutError):
                self._settle(self._wire, SETTLE_S)
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
            self._settle(self._wire, SEND_S)
        except OSError:
            return p.HandedOver(left)
        return None

    def _settle(self, wire: Wire, limit_s: float) -> None:
        """With the receipt what was given is forgotten; raises OSError where none comes."""
        if not self._is_settled:
            wire.fill(memoryview(bytearray(len(RECEIPT))), limit_s)
            self._is_settled = True
            self._forget(self._given or ())

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
