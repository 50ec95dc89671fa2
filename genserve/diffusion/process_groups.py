"""Torch process groups of their own members only, outside torch's global world; not what is sent over them.

Torch's ``new_group`` is a collective of all processes and cannot be called lazily. Here the members alone form a group
by way of a store. Torch's global default group is a group of one; it exists because torch asks for it.
"""

from __future__ import annotations

import datetime
import os
from typing import Any

import torch
import torch.distributed
from torch.distributed import distributed_c10d

from genserve.diffusion.wires import LOCALHOST

dist: Any = torch.distributed
c10d: Any = distributed_c10d
"""Torch's stubs leave out most of what is used here."""

NCCL_WATCH = (
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "TORCH_NCCL_ENABLE_MONITORING",
    "TORCH_NCCL_DUMP_ON_TIMEOUT",
    "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC",
    "TORCH_NCCL_RETHROW_CUDA_ERRORS",
)
"""What is switched off unless the environment says otherwise."""


def form(store: Any, name: str, rank: int, size: int, *, device: torch.device, timeout: datetime.timedelta) -> Any:
    """The group of that name: gloo for a CPU, NCCL for a GPU, to which it is bound and connected at once.

    Torch knows it by name, so that collectives find it. Its ranks get numbers outside the group that torch wants for
    sending from one to another: 0 is this process, as in its default group.
    """
    default_group()
    store = dist.PrefixStore(name, store)
    group = dist.ProcessGroup(store, rank, size)
    kinds = dist.ProcessGroup.BackendType
    is_gloo = device.type == "cpu"
    kind, label = (kinds.GLOO, "gloo") if is_gloo else (kinds.NCCL, "nccl")
    backend = _gloo(store, rank, size, timeout) if is_gloo else _nccl(store, rank, size)
    group._set_default_backend(kind)
    group._register_backend(device, kind, backend)
    group._set_group_name(name)
    c10d._register_process_group(name, group)
    others = [other for other in range(size) if other != rank]
    c10d._world.pg_group_ranks[group] = dict(enumerate([rank, *others]))
    c10d._world.pg_map[group] = (label, store)
    c10d._world.pg_names[group] = c10d.GroupName(name)
    if not is_gloo:
        group.bound_device_id = device
        backend.eager_connect_single_device(device)
    return group


def default_group() -> Any:
    """Torch answers "which rank am I in this group" by way of a default group; ours has one member."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return dist.group.WORLD


def forget(group: Any) -> None:
    """Drop what torch remembers about a group of ours, so that nothing but its users keeps it alive."""
    name = c10d._world.pg_names.pop(group, None)
    if name is not None:
        c10d._world.pg_group_ranks.pop(group, None)
        c10d._world.pg_map.pop(group, None)
        c10d._unregister_process_group(name)


def _gloo(store: Any, rank: int, size: int, timeout: datetime.timedelta) -> Any:
    options = dist.ProcessGroupGloo._Options()
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=LOCALHOST)]
    options._timeout = timeout
    return dist.ProcessGroupGloo(store, rank, size, options)


def _nccl(store: Any, rank: int, size: int) -> Any:
    """Whoever takes a step watches it (see Group.finish): torch's own watch would abort groups without a word, wait a
    minute before it does, or end the process.
    """
    os.environ.update({name: "0" for name in NCCL_WATCH if name not in os.environ})
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = datetime.timedelta(days=1)
    options.global_ranks_in_group = []
    return dist.ProcessGroupNCCL(store, rank, size, options)
