"""Digests of states and plans, so that replay can compare without storing; not for security."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from genserve.domain.cluster import ClusterState
from genserve.domain.costs import CostTable


def _encode_hook(value: Any) -> str:
    if isinstance(value, CostTable):
        return value.digest
    raise TypeError(f"cannot digest {type(value).__name__}")


_encoder = msgspec.json.Encoder(enc_hook=_encode_hook, order="deterministic")


def state_digest(state: ClusterState) -> str:
    """32 hexadecimal digits over every field, maps in key order; costs count by their own digest."""
    return hashlib.blake2b(_encoder.encode(state), digest_size=16).hexdigest()


def no_digest(state: ClusterState) -> str:  # noqa: ARG001
    """For simulations that nobody will replay."""
    return ""
