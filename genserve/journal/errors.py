"""What the journal answers instead of a receipt; not for SQL's own errors, which never leave it.

    CallerError
    ├── VersionConflict      version_conflict      the stream has moved on: read it again
    ├── InvalidAppend        invalid_append, payload_too_large: no retry can save this append
    └── IdempotencyConflict  idempotency_conflict  the key was used with another body
    Unavailable
    ├── JournalUnavailable   journal_unavailable   the database is away, or too much waits: try again
    ├── LeaseHeld            lease_held            another holder's lease has not expired
    └── Fenced               fenced                somebody newer writes here now: stop
    InvariantBroken
    ├── UnknownEvent         unknown_event         a log written by newer code, or a type nobody knows
    └── JournalStopped       journal_stopped       the writer stopped for good; the cause says why

Most carry their facts as ``args`` and build code and text from them, so that they survive pickling.
"""

from __future__ import annotations

from typing import ClassVar

from genserve.errors import CallerError, GenServeError, InvariantBroken, Unavailable


class _Facts(GenServeError):
    """Code, status and text by class; ``text`` is filled in from ``args``."""

    error_code: ClassVar[str]
    status: ClassVar[int] = 503
    text: ClassVar[str]
    retry_s: ClassVar[float] = 1.0

    @property
    def code(self) -> str:
        return self.error_code

    @property
    def message(self) -> str:
        return self.text.format(*self.args)

    @property
    def param(self) -> str | None:
        return None

    @property
    def http_status(self) -> int:
        return self.status

    @property
    def retry_after_s(self) -> float:
        return self.retry_s


class VersionConflict(_Facts, CallerError):
    """The stream stands at ``actual``: (stream, expected, actual)."""

    error_code = "version_conflict"
    status = 409
    text = "stream {0} is at version {2}, expected {1}"

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        Exception.__init__(self, stream, expected, actual)
        self.stream, self.expected, self.actual = stream, expected, actual


class InvalidAppend(CallerError):
    """An append that no retry can save: too large, malformed, or half a repetition."""


class IdempotencyConflict(_Facts, CallerError):
    """The idempotency key belongs to another body: (key,)."""

    error_code = "idempotency_conflict"
    status = 409
    text = "idempotency key {0!r} was used with another request body; use a new key"

    def __init__(self, key: str) -> None:
        Exception.__init__(self, key)

    @property
    def param(self) -> str | None:
        return "Idempotency-Key"


class JournalUnavailable(_Facts, Unavailable):
    """Nothing of this append is acknowledged; repeat it with the same producer sequence or key: (reason,)."""

    error_code = "journal_unavailable"
    text = "{0}"

    def __init__(self, reason: str) -> None:
        Exception.__init__(self, reason)


class LeaseHeld(_Facts, Unavailable):
    """Another holder's lease runs for ``remaining_s`` more: (name, holder, remaining_s)."""

    error_code = "lease_held"
    text = "lease {0} is held by {1} for {2:.1f} s more"

    def __init__(self, name: str, holder: str, remaining_s: float) -> None:
        Exception.__init__(self, name, holder, remaining_s)
        self.holder, self.remaining_s = holder, remaining_s

    @property
    def retry_after_s(self) -> float:
        return self.remaining_s


class Fenced(_Facts, Unavailable):
    """A newer owner writes to ``scope`` ("writer", a stream or a producer): (scope, fence, current)."""

    error_code = "fenced"
    text = "{0} is owned by epoch {2}; {1} is no longer accepted"

    def __init__(self, scope: str, fence: int, current: int) -> None:
        Exception.__init__(self, scope, fence, current)
        self.scope, self.fence, self.current = scope, fence, current


class UnknownEvent(_Facts, InvariantBroken):
    """No decoder for this type and schema version: (type, schema_version)."""

    error_code = "unknown_event"
    status = 500
    text = "no decoder for event {0!r} of schema version {1}: is this log newer than the code?"

    def __init__(self, type_name: str, schema_version: int) -> None:
        Exception.__init__(self, type_name, schema_version)


class JournalStopped(_Facts, InvariantBroken):
    """The writer has stopped and accepts nothing more: (reason,)."""

    error_code = "journal_stopped"
    text = "{0}"

    def __init__(self, reason: str) -> None:
        Exception.__init__(self, reason)
