"""Direct connections between the processes of one node: words and buffers, in order; not what they mean.

Plain sockets: what torch's collectives add for the sake of many processes costs more than a message does. No torch.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable

Buffer = bytes | bytearray | memoryview
Fill = Callable[[memoryview], object]
"""Puts the bytes that come next into memory, as many as there is room for; raises OSError where they don't come."""
LOCALHOST = "127.0.0.1"
HEAD = struct.Struct("<qq")
"""Ahead of a word: what it is, and how many bytes follow."""
NAME = struct.Struct("<H")
ALIGNMENT = 64
"""Bytes: a tensor in a buffer, and a buffer that comes, start where a tensor with memory of its own would, because
kernels may care.
"""
SEND_S = 20.0
"""How long a process that hangs may leave what it is sent unread."""
CALL_S = 2.0
BUSY_S = 0.1
"""How long no calls are taken after one that could not be, for want of file handles say."""
MAX_UNANSWERED = 1_000
"""Calls kept for somebody who asks for them by name; beyond that the oldest is hung up."""


class Wire:
    """One end of a connection; one thread sends, one receives, and ``close`` may come from any other.

    Everything raises OSError as soon as the other end, or this one, is gone; TimeoutError is one. A wire on which
    something has failed is of no use any more.
    """

    def __init__(self, connected: socket.socket, *, send_s: float = SEND_S) -> None:
        self._socket = connected
        self._send_s = send_s
        weakref.finalize(self, connected.close)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, code: int, payload: Buffer = b"") -> None:
        """A word, and what belongs to it."""
        self._socket.settimeout(self._send_s)
        self._socket.sendall(b"".join((HEAD.pack(code, len(payload)), payload)))

    def send_buffer(self, buffer: memoryview) -> None:
        """Bytes whose number the other end knows."""
        self._socket.settimeout(self._send_s)
        self._socket.sendall(buffer)

    def receive(self, limit_s: float | None = None) -> tuple[int, bytes]:
        """The next word; it may be so long in coming, None: for ever."""
        head = bytearray(HEAD.size)
        self.fill(memoryview(head), limit_s)
        code, length = HEAD.unpack(head)
        payload = bytearray(length)
        self.fill(memoryview(payload), SEND_S)
        return code, bytes(payload)

    def fill(self, buffer: memoryview, limit_s: float | None = SEND_S) -> None:
        """The other end's bytes, in place; so long may pass without any."""
        self._socket.settimeout(limit_s)
        done = 0
        while done < len(buffer):
            count = self._socket.recv_into(buffer[done:])
            if count == 0:
                raise ConnectionResetError("the other process has closed the connection")
            done += count

    @property
    def is_cut(self) -> bool:
        """Whether the other end, or this one, is gone, without waiting and without reading a word."""
        try:
            self._socket.setblocking(False)
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Both ends wake up whoever waits there. What has been sent may be lost."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class Exchange:
    """Where other processes of this node reach this one; each call says a name, by which somebody here takes it."""

    def __init__(self) -> None:
        self._listener = socket.create_server((LOCALHOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._calls: OrderedDict[str, Wire] = OrderedDict()
        self._news = threading.Condition()
        self._is_closed = False
        threading.Thread(target=self._listen, name="exchange", daemon=True).start()

    def answer(self, name: str, limit_s: float) -> Wire:
        """The call by that name; raises TimeoutError where none comes, ConnectionAbortedError once this is closed."""
        with self._news:
            self._news.wait_for(lambda: name in self._calls or self._is_closed, limit_s)
            if self._is_closed:
                raise ConnectionAbortedError("this process takes no more calls")
            if name not in self._calls:
                raise TimeoutError(f"nobody has called as {name} within {limit_s:.0f} s")
            return self._calls.pop(name)

    def close(self) -> None:
        """No more calls; wires that were taken stay."""
        with self._news:
            self._is_closed = True
            self._calls.clear()
            self._news.notify_all()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        with self._listener:
            while not self._is_closed:
                try:
                    caller, _ = self._listener.accept()
                except OSError:
                    time.sleep(0.0 if self._is_closed else BUSY_S)
                else:
                    self._take(caller)

    def _take(self, caller: socket.socket) -> None:
        wire = Wire(caller)
        try:
            head = bytearray(NAME.size)
            wire.fill(memoryview(head), CALL_S)
            name = bytearray(NAME.unpack(head)[0])
            wire.fill(memoryview(name), CALL_S)
        except OSError:
            return
        with self._news:
            if not self._is_closed:
                self._calls[name.decode(errors="replace")] = wire
                while len(self._calls) > MAX_UNANSWERED:
                    self._calls.popitem(last=False)
                self._news.notify_all()


def call(port: int, name: str, *, send_s: float = SEND_S) -> Wire:
    """A wire to the process that listens at that port, for whoever answers to the name there; raises OSError."""
    wire = Wire(socket.create_connection((LOCALHOST, port), timeout=CALL_S), send_s=send_s)
    said = name.encode()
    wire.send_buffer(memoryview(NAME.pack(len(said)) + said))
    return wire
