"""Options that several commands share, and how durations are written; not what commands do."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import typer

from genserve.errors import CallerError

DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[str, typer.Option("--url", envvar="GENSERVE_URL", help="The server's address.")]
ApiKey = Annotated[
    str, typer.Option("--api-key", envvar="GENSERVE_API_KEY", help="Key of the server, if it wants one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}


def parse_duration_ms(text: str) -> int:
    """Milliseconds of a duration such as 500ms, 30s, 1.5m or 2h; raises CallerError ``invalid_duration``."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise CallerError("invalid_duration", f"a duration is written 500ms, 30s, 1.5m or 2h, not {text!r}")
    return round(float(match[1]) * _UNIT_MS[match[2]])


def print_json(value: Any) -> None:
    """One JSON document per line."""
    typer.echo(json.dumps(value))
