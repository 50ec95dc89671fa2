"""Bounds on what one client can hold: bytes of a body, open event streams; not the queue's bound (see Gateway)."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genserve.api.envelope import error_response
from genserve.errors import CallerError, RefusedByPolicy


class StreamSlots:
    """Counts open event streams of this process."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = 0

    def acquire(self) -> StreamSlot:
        """A slot to hold while streaming; raises RefusedByPolicy ``too_many_streams``."""
        if self.open >= self.limit:
            message = f"all {self.limit} event streams of this server are taken; poll instead, or try again later"
            raise RefusedByPolicy("too_many_streams", message, None, 5.0)
        self.open += 1
        return StreamSlot(self)


class StreamSlot:
    """One stream's place; releasing it twice is harmless."""

    def __init__(self, slots: StreamSlots) -> None:
        self._slots: StreamSlots | None = slots

    def release(self) -> None:
        if self._slots is not None:
            self._slots.open -= 1
            self._slots = None


class BodyLimit:
    """ASGI middleware: refuses a body over ``max_bytes``, by its announced length or while it streams in."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if _announced_bytes(scope) > self.max_bytes:
            await error_response(self._refusal())(scope, receive, send)
            return
        await self.app(scope, self._counting(receive), send)

    def _counting(self, receive: Receive) -> Receive:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_bytes:
                raise self._refusal()
            return message

        return counted

    def _refusal(self) -> CallerError:
        return CallerError("body_too_large", f"the body is over {self.max_bytes} bytes; send a smaller one")


def _announced_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
