"""Names of streams and ids; not for generating them at random (that is the caller's shell's job)."""

from __future__ import annotations

import secrets

REQUEST_STREAM = "request/"
WORKER_STREAM = "worker/"
SCHEDULER_STREAM = "scheduler"


def request_stream(request_id: str) -> str:
    return REQUEST_STREAM + request_id


def worker_stream(worker_id: str) -> str:
    return WORKER_STREAM + worker_id


def uuid7(now_us: int, randomness: int) -> str:
    """A UUIDv7 (RFC 9562) as 32 hexadecimal digits, from a clock in microseconds and 74 random bits."""
    milliseconds = now_us // 1000
    high = (milliseconds << 16) | 0x7000 | ((randomness >> 62) & 0xFFF)
    low = (0b10 << 62) | (randomness & ((1 << 62) - 1))
    return f"{high:016x}{low:016x}"


def new_id(prefix: str, now_us: int) -> str:
    """A time-ordered id such as ``img_0193...``; for shells only, since it draws randomness."""
    return f"{prefix}_{uuid7(now_us, secrets.randbits(74))}"
