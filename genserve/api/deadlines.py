"""By when a client wants its result: ``slo_ms`` or ``deadline`` to microseconds since the epoch; not whether we can."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from genserve.errors import CallerError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def deadline_us(
    slo_ms: int | None, deadline: str | int | float | None, *, default_slo_ms: int, max_slo_s: int, now_us: int
) -> int:
    """The deadline, the model's default after now where none is given.

    Raises CallerError ``conflicting_parameters``, ``invalid_slo``, ``invalid_deadline`` or ``deadline_in_past``.
    """
    if slo_ms is not None and deadline is not None:
        message = "give slo_ms (milliseconds from now) or deadline (a point in time), not both"
        raise CallerError("conflicting_parameters", message, "deadline")
    if deadline is not None:
        return _absolute_us(deadline, max_slo_s=max_slo_s, now_us=now_us)
    if slo_ms is None:
        slo_ms = default_slo_ms
    elif not 1 <= slo_ms <= max_slo_s * 1000:
        message = f"slo_ms is 1 to {max_slo_s * 1000} milliseconds from now, not {slo_ms}"
        raise CallerError("invalid_slo", message, "slo_ms")
    return now_us + slo_ms * 1000


def _absolute_us(deadline: str | int | float, *, max_slo_s: int, now_us: int) -> int:
    due_us = _parse(deadline)
    if due_us <= now_us:
        late_s = (now_us - due_us) / 1_000_000
        message = f"the deadline is {late_s:.3g} s in the past by the server's clock; give a later one, or slo_ms"
        raise CallerError("deadline_in_past", message, "deadline")
    if due_us > now_us + max_slo_s * 1_000_000:
        message = f"the deadline is more than {max_slo_s} s away; give an earlier one"
        raise CallerError("invalid_deadline", message, "deadline")
    return due_us


def _parse(deadline: str | int | float) -> int:
    """Microseconds of an ISO 8601 time with a zone, or of Unix seconds, also as text."""
    if isinstance(deadline, int):
        return deadline * 1_000_000
    try:
        seconds = float(deadline)
    except ValueError:
        return _parse_iso(str(deadline))
    if not math.isfinite(seconds):
        raise _invalid(deadline)
    return round(seconds * 1_000_000) if abs(seconds) < 1e15 else int(seconds) * 1_000_000


def _parse_iso(deadline: str) -> int:
    try:
        moment = datetime.fromisoformat(deadline)
    except ValueError as error:
        raise _invalid(deadline) from error
    if moment.tzinfo is None:
        message = f"the deadline {deadline!r} has no time zone; append Z or an offset such as +02:00"
        raise CallerError("invalid_deadline", message, "deadline")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _invalid(deadline: object) -> CallerError:
    message = f"a deadline is ISO 8601 with a zone, such as 2027-01-31T12:00:00Z, or Unix seconds, not {deadline!r:.60}"
    return CallerError("invalid_deadline", message, "deadline")
