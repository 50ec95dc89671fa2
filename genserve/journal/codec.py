"""Events to canonical JSON and back, by type name and schema version; not for the envelope (see rows).

Canonical: fields in a fixed order, defaults omitted, no spaces. The same event always gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec

from genserve.domain.events import EVENT_TYPES, AnyEvent, Event
from genserve.domain.ids import SCHEDULER_STREAM
from genserve.journal.errors import InvalidAppend, UnknownEvent

PAYLOAD_LIMIT = 8 * 1024
"""Bytes of one event on a request or worker stream; bigger things are artifacts, by reference."""

SCHEDULER_PAYLOAD_LIMIT = 64 * 1024
"""Bytes of one event on the scheduler's stream: decisions and cost tables are big."""

Upcast = Callable[[dict[str, Any]], dict[str, Any]]

UPCASTS: dict[tuple[str, int], Upcast] = {}
"""(type, from version) -> the fields one version later. Entries are added, never changed or removed."""

_encoder = msgspec.json.Encoder(order="deterministic")
_decoders: dict[str, msgspec.json.Decoder[Event]] = {
    name: msgspec.json.Decoder(event_type) for name, event_type in EVENT_TYPES.items()
}


def payload_limit(stream: str) -> int:
    return SCHEDULER_PAYLOAD_LIMIT if stream == SCHEDULER_STREAM else PAYLOAD_LIMIT


def encode(event: AnyEvent, limit: int = SCHEDULER_PAYLOAD_LIMIT) -> str:
    """Canonical JSON. Raises InvalidAppend: payload_too_large over ``limit`` bytes, or invalid_append."""
    try:
        payload = _encoder.encode(event)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidAppend("invalid_append", f"{type(event).__name__} cannot be encoded: {error}") from error
    if len(payload) > limit:
        text = f"{type(event).__name__} takes {len(payload)} bytes, the limit is {limit}; store it as an artifact"
        raise InvalidAppend("payload_too_large", text)
    return payload.decode()


def decode(type_name: str, schema_version: int, payload: str) -> AnyEvent:
    """The event as today's class, upcast one version at a time. Raises UnknownEvent."""
    event_type = EVENT_TYPES.get(type_name)
    if event_type is None or schema_version > event_type.schema_version:
        raise UnknownEvent(type_name, schema_version)
    if schema_version == event_type.schema_version:
        return cast(AnyEvent, _decoders[type_name].decode(payload))
    return cast(AnyEvent, msgspec.convert(_upcast(type_name, schema_version, payload), event_type))


def _upcast(type_name: str, schema_version: int, payload: str) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode(payload)
    for version in range(schema_version, EVENT_TYPES[type_name].schema_version):
        upcast = UPCASTS.get((type_name, version))
        if upcast is None:
            raise UnknownEvent(type_name, schema_version)
        fields = upcast(fields)
    return fields
