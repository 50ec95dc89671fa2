"""Sealing folded state so that a damaged snapshot is recognised; not for folding (a snapshot is only a cache)."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from genserve.journal.contract import Snapshot


def seal(snapshot: Snapshot) -> bytes:
    """Hash of the data together with what it claims to be."""
    label = f"{snapshot.name}\0{snapshot.position}\0{snapshot.fold_version}\0{snapshot.codec}\0"
    return blake2b(label.encode() + snapshot.data, digest_size=32).digest()


def newest_valid(sealed: Iterable[tuple[Snapshot, bytes]], *, head: int) -> Snapshot | None:
    """The first of them, newest first, that is unharmed and not ahead of the log."""
    for snapshot, expected in sealed:
        if snapshot.position <= head and seal(snapshot) == expected:
            return snapshot
    return None
