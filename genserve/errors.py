"""The exception tree, with one table of codes and HTTP statuses; not for translating foreign errors.

    GenServeError
    ├── CallerError       the caller's fault: fix the request and send it again
    ├── RefusedByPolicy   a valid request that this system declines now, with a reason
    ├── Unavailable       nobody's fault: try again after a while
    └── InvariantBroken   our own fault: a bug, never an input

Every error carries a stable ``code``. Errors cross process boundaries by pickle, so constructor
arguments equal ``args`` and the text is built in ``__str__``.
"""

from __future__ import annotations


class GenServeError(Exception):
    """Base of every error we raise on purpose: (code, message, param)."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(code, message, param)

    @property
    def code(self) -> str:
        return str(self.args[0])

    @property
    def message(self) -> str:
        return str(self.args[1])

    @property
    def param(self) -> str | None:
        """The request field at fault, where there is one."""
        return None if self.args[2] is None else str(self.args[2])

    @property
    def http_status(self) -> int:
        return HTTP_STATUS.get(self.code, 500)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class CallerError(GenServeError):
    """The caller's fault; the message says what to change."""

    @property
    def http_status(self) -> int:
        return HTTP_STATUS.get(self.code, 400)


class RefusedByPolicy(GenServeError):
    """Valid, but declined; ``retry_after_s`` estimates when to try again."""

    def __init__(self, code: str, message: str, param: str | None = None, retry_after_s: float = 1.0) -> None:
        Exception.__init__(self, code, message, param, retry_after_s)

    @property
    def retry_after_s(self) -> float:
        return float(self.args[3])

    @property
    def http_status(self) -> int:
        return HTTP_STATUS.get(self.code, 429)


class Unavailable(RefusedByPolicy):
    """Something we depend on is away; nothing was lost."""

    @property
    def http_status(self) -> int:
        return HTTP_STATUS.get(self.code, 503)


class InvariantBroken(GenServeError):
    """A bug of ours: the message names the ids and both sides of the mismatch."""


HTTP_STATUS: dict[str, int] = {
    "invalid_api_key": 401,
    "model_not_found": 404,
    "request_not_found": 404,
    "video_not_found": 404,
    "artifact_not_found": 404,
    "route_not_found": 404,
    "method_not_allowed": 405,
    "not_ready": 409,
    "no_result": 409,
    "cancelled": 409,
    "idempotency_conflict": 409,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "queue_full": 429,
    "refused": 429,
    "too_many_streams": 429,
    "scheduler_unavailable": 503,
    "journal_unavailable": 503,
    "internal_error": 500,
}
"""Statuses that differ from their family's default (400, 429, 503, 500)."""
