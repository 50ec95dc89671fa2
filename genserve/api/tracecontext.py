"""W3C Trace Context: is this ``traceparent`` one we may continue; not tracing itself (see observability)."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def valid_traceparent(headers: Sequence[str]) -> str:
    """The header if there is exactly one and it is valid, else "": a broken one starts a new trace, never an error.

    W3C Trace Context section 3.2: version ff and all-zero ids are invalid, and version 00 has nothing after the flags.
    """
    match = _TRACEPARENT.fullmatch(headers[0].strip()) if len(headers) == 1 else None
    if match is None:
        return ""
    version, trace_id, parent_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace_id, 16) or not int(parent_id, 16):
        return ""
    return f"{version}-{trace_id}-{parent_id}-{flags}"
