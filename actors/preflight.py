"""What a server refuses before it starts anything: settings that cannot work here; not how they are read (see config).

Everything is checked by whoever uses it later, in another process, where an error would be a traceback at best.
"""

from __future__ import annotations

import socket

from actors.verdicts import parameters_of
from genserve.config import Cluster, Http, Settings
from genserve.diffusion.catalog import Catalog
from genserve.errors import CallerError
from genserve.journal.urls import MEMORY, is_file, parse_url
from genserve.planners.registry import build_planner
from genserve.scheduling.costs import load_costs
from genserve.scheduling.placement import check_placement

REACH_S = 10.0


def check_settings(settings: Settings) -> None:
    """Raises a CallerError that says what to change."""
    catalog = Catalog.load(settings.catalog)
    build_planner(settings.planner, parameters_of(settings))
    load_costs(settings.costs)
    _check_database(settings.database)
    _check_data_dir(settings)
    if settings.cluster.address:
        _check_cluster(settings.cluster.address)
    else:
        _check_checkpoints(settings, catalog)
        check_port(settings.http)


def check_workers(settings: Settings, workers: int, *, gpus: int) -> None:
    """Whether so many workers can do on so many GPUs (0: on CPUs) what the settings ask of them; raises CallerError."""
    cluster = settings.cluster
    _check_gpus(cluster, workers, gpus)
    if not gpus and cluster.parallel_backend != "ulysses":
        message = f"cluster.parallel_backend: {cluster.parallel_backend} runs on GPUs only, and there are none"
        raise CallerError("backend_unavailable", f"{message}; use ulysses")
    names = [f"worker-{index}" for index in range(workers)]
    check_placement(cluster.placement, workers=names, models=Catalog.load(settings.catalog).names)


def check_machines(settings: Settings, machines: int) -> None:
    """Whether the log can be reached from all of them; raises CallerError ``invalid_database_url``."""
    if machines > 1 and is_file(settings.database):
        message = f"the cluster has {machines} machines, and a SQLite file is safe on one only"
        raise CallerError("invalid_database_url", f"database_url: {message}; use PostgreSQL")


def _check_gpus(cluster: Cluster, workers: int, gpus: int) -> None:
    """A worker beyond the last GPU would start, find none, and run on the CPU beside the others."""
    if cluster.device == "cuda" and not gpus:
        raise CallerError("invalid_config", "cluster.device: cuda, but there is no GPU here; use auto or cpu")
    if gpus and workers > gpus:
        message = f"cluster.workers: {workers} workers take a GPU each, and there are {gpus}"
        raise CallerError("invalid_config", f"{message}; use at most {gpus}, or cluster.device cpu")


def check_port(http: Http) -> None:
    """Ray's proxy would wait for an occupied port, and its reason would be in a file."""
    try:
        with socket.create_server((http.host, http.port)):
            return
    except OSError as error:
        raise CallerError("invalid_config", f"cannot listen on {http.host}:{http.port}: {error.strerror}") from error


def _check_database(url: str) -> None:
    if url == MEMORY:
        raise CallerError("invalid_database_url", "a server's log is read by several processes: it needs a database")
    parse_url(url)


def _check_data_dir(settings: Settings) -> None:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CallerError("invalid_config", f"data_dir: {error}") from error


def _check_cluster(address: str) -> None:
    """Ray would try for minutes to reach a host that does not listen."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S):
            return
    except (OSError, OverflowError) as error:
        raise CallerError("cluster_unavailable", f"cluster.address: nobody listens at {address}: {error}") from error


def _check_checkpoints(settings: Settings, catalog: Catalog) -> None:
    """On this node; those of a cluster that is joined see to theirs themselves."""
    for entry in catalog.models:
        entry.find_checkpoint(settings.models)
