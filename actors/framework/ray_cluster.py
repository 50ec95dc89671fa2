"""Ray under the cell: a cluster of its own, or a place in one that others use too; not actors (see ray_runtime)."""

from __future__ import annotations

import os
import signal
from typing import Any

import ray

from genserve.errors import CallerError, Unavailable

CELLS = "genserve-cells"
"""Ray's namespace of one actor per running cell."""


def start_cluster(*, gpus: int) -> None:
    """On this machine, whatever other cluster runs here, with those GPUs."""
    _connect(address="local", num_gpus=gpus, include_dashboard=False, log_to_driver=True)


def join_cluster(address: str) -> None:
    """Raises Unavailable ``cluster_unavailable``."""
    try:
        _connect(address=address)
    except (ConnectionError, ValueError) as error:
        raise Unavailable("cluster_unavailable", f"cannot join the Ray cluster at {address}: {error}") from error


def take_name(cell: str) -> object:
    """The cell's name in the cluster, while the answer is kept; free again when this process ends, however it ends.

    Raises CallerError ``cell_running`` where another process has it.
    """
    holder: Any = ray.remote(_Holder).options(name=cell, namespace=CELLS, num_cpus=0, max_restarts=-1)
    try:
        return holder.remote()
    except ValueError as error:
        raise cell_running(cell) from error


def cell_running(cell: str) -> CallerError:
    """What a second start under a running cell's name is told."""
    message = f"cluster.name: a cell named {cell!r} runs in this cluster; stop it, or name this one otherwise"
    return CallerError("cell_running", message)


def count_gpus() -> int:
    """Ray's GPUs, whoever uses them."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("GPU", 0))


def count_machines() -> int:
    """Of the cluster; several of its nodes may be on one."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return len({node["NodeManagerAddress"] for node in nodes if node["Alive"]})


class _Holder:
    """Is there. Not detached: it ends with the process that made it."""


def _connect(**how: Any) -> None:
    """As ray.init, which would handle SIGTERM by ending this process where it stands."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(**how)
    signal.signal(signal.SIGTERM, handler)
