"""Log output caught in a buffer, with the global setup put back afterwards."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from observability.logging import setup_logging


@contextmanager
def captured_log(
    *, log_format: str = "json", level: str = "debug", secrets: tuple[str, ...] = ()
) -> Iterator[io.StringIO]:
    """Everything logged in the block, through structlog or the standard library."""
    root, out = logging.getLogger(), io.StringIO()
    handlers, old_level = root.handlers[:], root.level
    try:
        setup_logging(log_format=log_format, level=level, stream=out, secrets=secrets)
        yield out
    finally:
        root.handlers[:] = handlers
        root.setLevel(old_level)
        structlog.reset_defaults()
