"""The loop's folded state as bytes and back, so that recovery folds only the log's tail; never the truth.

A snapshot holds the cluster, the planner's memory and what telemetry remembers of live requests. It is used by the
planner that made it only: another one's memory is a fold of the whole log.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from genserve.domain.cluster import ClusterState
from genserve.domain.costs import CostData, CostTable
from genserve.domain.evolve import FOLD_VERSION
from genserve.journal.contract import Snapshot
from genserve.planners.interface import Planner
from genserve.scheduling.telemetry.trail import Remains

NAME = "loop"
CODEC = "msgpack"
EVERY = 10_000
"""Events between snapshots: folding so many takes about 50 ms."""


class Folded(Struct, frozen=True):
    """Everything that a scheduler remembers after ``state.position``."""

    state: ClusterState
    memory: Any
    trails: tuple[Remains, ...] = ()


class _Sealed(Struct, frozen=True):
    """What is stored: the memory's type is known to its planner alone."""

    planner_digest: str
    state: ClusterState
    memory: msgspec.Raw
    trails: tuple[Remains, ...]


def freeze(folded: Folded, planner: Planner) -> Snapshot:
    """Raises TypeError where a planner of somebody else's remembers what msgspec cannot encode."""
    sealed = _Sealed(planner.digest, folded.state, msgspec.Raw(_encoder.encode(folded.memory)), folded.trails)
    return Snapshot(NAME, folded.state.position, FOLD_VERSION, CODEC, _encoder.encode(sealed))


def thaw(snapshot: Snapshot | None, planner: Planner) -> Folded | None:
    """None for what is of no use: nothing, another planner's, or not readable by this code."""
    if snapshot is None or snapshot.codec != CODEC:
        return None
    try:
        sealed = _decoder.decode(snapshot.data)
        if sealed.planner_digest != planner.digest:
            return None
        memory = msgspec.msgpack.decode(sealed.memory, type=type(planner.begin()), dec_hook=_decode_hook)
    except msgspec.DecodeError:
        return None
    return Folded(sealed.state, memory, sealed.trails)


def _encode_hook(value: Any) -> Any:
    if isinstance(value, CostTable):
        return value.data
    raise TypeError(f"cannot store {type(value).__name__}")


def _decode_hook(kind: type, value: Any) -> Any:
    if kind is CostTable:
        return CostTable(msgspec.convert(value, CostData))
    raise TypeError(f"cannot read {kind.__name__}")


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_hook)
_decoder = msgspec.msgpack.Decoder(_Sealed, dec_hook=_decode_hook)
