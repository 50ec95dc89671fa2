"""The workers to plan with, by node: the same for every decision until one joins or is lost; not which are free."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from genserve.domain.cluster import ClusterState
from genserve.domain.placement import denoisers


class Layout(NamedTuple):
    """``able`` are the workers that denoise, by node in ``nodes``; ``node_of`` knows the others too.

    ``largest`` is the widest group that a node can have.
    """

    able: frozenset[str]
    node_of: Mapping[str, str]
    nodes: Mapping[str, tuple[str, ...]]
    largest: int


def layout_of(state: ClusterState) -> Layout:
    """Nodes and their workers in order of their names."""
    workers = state.workers
    return _layout(tuple(workers), tuple([w.node for w in workers.values()]), denoisers(state))


@lru_cache(maxsize=64)
def _layout(workers: tuple[str, ...], nodes: tuple[str, ...], able: frozenset[str]) -> Layout:
    node_of = dict(sorted(zip(workers, nodes, strict=True), key=itemgetter(1, 0)))
    members: dict[str, tuple[str, ...]] = {}
    for worker_id, node in node_of.items():
        if worker_id in able:
            members[node] = (*members.get(node, ()), worker_id)
    most = max((len(m) for m in members.values()), default=1)
    return Layout(able, node_of, members, power_of_two(most))


def power_of_two(count: int) -> int:
    """The largest power of two not above ``count``; 0 for none."""
    return 1 << (count.bit_length() - 1) if count > 0 else 0
