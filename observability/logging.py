"""Log lines as JSON or for people, stdlib logging included; not where it is decided what is worth a line.

Secrets and user data never reach a line: whatever is filed under a secret's name, bearer tokens, passwords in URLs
and the configured ``secrets`` are masked, and a prompt is shown as its length only.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger, Processor

MASK = "[redacted]"
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

_SECRET_NAME = re.compile(r"authorization|api[-_ ]?key|token|secret|passw(?:or)?d|cookie|credential", re.IGNORECASE)
_SUSPECT = re.compile(r"bearer|basic|://|prompt|api[-_ ]?key", re.IGNORECASE)
_SCRUBS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b(bearer|basic)\s+[^\s,;'\"]+", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"(://[^/\s:@]*):[^/\s@]+@"), rf"\1:{MASK}@"),
    (re.compile(r"""(api[-_ ]?key["']?\s*[=:]\s*)["']?[^\s,;'"]+["']?""", re.IGNORECASE), rf"\1{MASK}"),
    (
        re.compile(r"""(prompt["']?\s*[=:]\s*)("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""", re.IGNORECASE),
        rf"\1{MASK}",
    ),
)
_MAX_DEPTH = 6


def setup_logging(
    *,
    log_format: str = "console",
    level: str = "info",
    stream: TextIO | None = None,
    secrets: Iterable[str] = (),
) -> None:
    """Route structlog and the standard library's logging to one stream (stderr), in one format.

    ``log_format`` is json or console, ``level`` one of LEVELS; anything else raises ValueError. ``secrets`` are
    literal values, such as the configured API keys, that are masked wherever they appear. May be called again.
    """
    if log_format not in ("json", "console"):
        raise ValueError(f"log_format is {log_format!r}; it must be json or console")
    if level.lower() not in LEVELS:
        raise ValueError(f"log_level is {level!r}; it must be one of {', '.join(LEVELS)}")
    number = LEVELS[level.lower()]
    out = stream or sys.stderr
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [structlog.processors.format_exc_info, Redactor(secrets), _renderer(log_format, out)]
    structlog.configure(
        processors=[*common, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    _bridge_stdlib(number, out, [*common, structlog.stdlib.add_logger_name], last)


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry ``logger=name``, as set up now: ask for it after ``setup_logging``."""
    return cast(FilteringBoundLogger, structlog.get_logger().bind(logger=name))


class Redactor:
    """A structlog processor that masks secrets and prompts in every field, nested ones and exceptions included."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._literals = tuple(sorted({s for s in secrets if s}, key=len, reverse=True))

    def __call__(self, _: Any, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for name, value in fields.items():
            if not name.startswith("_"):
                fields[name] = self._field(name, value, 0)
        return fields

    def _field(self, name: str, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        sort = _sort_of(name)
        if sort == "secret":
            return MASK
        if sort == "prompt" and isinstance(value, str):
            return f"[{len(value)} chars]"
        return self._value(value, depth)

    def _value(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if depth >= _MAX_DEPTH:
            return self._text(repr(value))
        if isinstance(value, Mapping):
            return {str(k): self._field(str(k), v, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value(v, depth + 1) for v in value]
        return self._text(repr(value))

    def _text(self, text: str) -> str:
        for literal in self._literals:
            text = text.replace(literal, MASK)
        if _SUSPECT.search(text):
            for pattern, replacement in _SCRUBS:
                text = pattern.sub(replacement, text)
        return text


@lru_cache(maxsize=1024)
def _sort_of(name: str) -> str:
    """Whether a field of this name is a secret, a prompt or plain; the same few names come again and again."""
    if _SECRET_NAME.search(name):
        return "secret"
    return "prompt" if "prompt" in name.lower() else "plain"


class _Bridge(logging.StreamHandler[TextIO]):
    """Our handler on the root logger; a type of its own, so that a second setup replaces it and nobody else's."""


def _bridge_stdlib(level: int, stream: TextIO, common: list[Processor], last: list[Processor]) -> None:
    bridge = _Bridge(stream)
    chain: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
    bridge.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=common, processors=chain))
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(bridge)
    root.setLevel(level)


def _renderer(log_format: str, stream: TextIO) -> Processor:
    if log_format == "json":
        return structlog.processors.JSONRenderer(default=repr)
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), sort_keys=False, exception_formatter=structlog.dev.plain_traceback
    )
