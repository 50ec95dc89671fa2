"""The event store: one ordered, durable, tamper-evident log per cell, and the read models beside it."""

from genserve.journal.contract import (
    ANY,
    Head,
    IdempotencyKey,
    Producer,
    Reader,
    Receipt,
    Snapshot,
    Storage,
    StoredKey,
    Unit,
)
from genserve.journal.errors import (
    Fenced,
    IdempotencyConflict,
    InvalidAppend,
    JournalStopped,
    JournalUnavailable,
    LeaseHeld,
    UnknownEvent,
    VersionConflict,
)
from genserve.journal.journal import Journal
from genserve.journal.memory import MemoryStorage
from genserve.journal.open import open_reader, open_storage
from genserve.journal.views import LATENTS, ArtifactRow, RequestRow

__all__ = [
    "ANY",
    "LATENTS",
    "ArtifactRow",
    "Fenced",
    "Head",
    "IdempotencyConflict",
    "IdempotencyKey",
    "InvalidAppend",
    "Journal",
    "JournalStopped",
    "JournalUnavailable",
    "LeaseHeld",
    "MemoryStorage",
    "Producer",
    "Reader",
    "Receipt",
    "RequestRow",
    "Snapshot",
    "Storage",
    "StoredKey",
    "Unit",
    "UnknownEvent",
    "VersionConflict",
    "open_reader",
    "open_storage",
]
