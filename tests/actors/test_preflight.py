"""Settings that cannot work are refused in a sentence, before Ray, a database or a worker is touched."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from actors.preflight import check_machines, check_settings, check_workers
from genserve.config import Cluster, Http, Settings
from genserve.diffusion.catalog import Catalog
from genserve.errors import CallerError


def settings_of(folder: Path, **changes: Any) -> Settings:
    """A folder with an empty checkpoint for every model of the catalog, and a free port."""
    for entry in Catalog.load().models:
        (folder / entry.path).mkdir(parents=True, exist_ok=True)
        (folder / entry.path / "model_index.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        http = Http(port=free.getsockname()[1])
    return replace(Settings(data_dir=folder, models_dir=folder, http=http), **changes)


def test_settings_that_work_are_accepted(tmp_path: Path) -> None:
    check_settings(settings_of(tmp_path))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"planner": "nobody"}, "unknown_planner"),
        ({"planner_parameters": {"nothing": 1}}, "invalid_planner_parameter"),
        ({"planner_parameters": {"aligned_only": "very"}}, "invalid_planner_parameter"),
        ({"database_url": "nowhere"}, "invalid_database_url"),
        ({"database_url": "mysql://host/name"}, "invalid_database_url"),
        ({"database_url": "memory://"}, "invalid_database_url"),
        ({"catalog": Path("absent.toml")}, "invalid_catalog"),
        ({"costs": Path("absent.json")}, "invalid_costs"),
        ({"models_dir": Path("absent")}, "checkpoint_not_found"),
        ({"data_dir": Path(__file__) / "below-a-file"}, "invalid_config"),
        ({"http": Http(host="999.1.1.1")}, "invalid_config"),
    ],
)
def test_what_cannot_work_is_refused_with_a_code(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(CallerError) as refusal:
        check_settings(settings_of(tmp_path, **changes))
    assert refusal.value.code == code


def test_an_occupied_port_is_refused_by_number(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CallerError, match=f"cannot listen on 127.0.0.1:{port}"):
            check_settings(settings_of(tmp_path, http=Http(port=port)))


def test_a_cluster_that_is_joined_has_its_checkpoints_elsewhere(tmp_path: Path) -> None:
    check_settings(settings_of(tmp_path, models_dir=tmp_path / "absent", cluster=Cluster(address="auto")))


def test_where_a_cluster_that_is_joined_listens_is_its_own_affair(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        http = Http(port=other.getsockname()[1])
        check_settings(settings_of(tmp_path, http=http, cluster=Cluster(address="auto")))


def test_a_cluster_that_nobody_listens_for_is_refused_before_it_is_joined(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"127.0.0.1:{gone.getsockname()[1]}"
    with pytest.raises(CallerError, match=f"nobody listens at {address}"):
        check_settings(settings_of(tmp_path, cluster=Cluster(address=address)))


def test_a_placement_on_a_worker_that_will_not_be_is_refused() -> None:
    settings = Settings(cluster=Cluster(placement={"worker-2": ("tiny-wan",)}))
    check_workers(settings, 3, gpus=0)
    with pytest.raises(CallerError, match="no worker is named 'worker-2'"):
        check_workers(settings, 2, gpus=0)


@pytest.mark.parametrize("backend", ["ring", "xfuser"])
def test_a_backend_that_needs_gpus_is_refused_where_there_are_none(backend: str) -> None:
    settings = Settings(cluster=Cluster(parallel_backend=backend))  # type: ignore[arg-type]
    check_workers(settings, 1, gpus=1)
    with pytest.raises(CallerError, match=f"{backend} runs on GPUs only"):
        check_workers(settings, 1, gpus=0)


def test_more_workers_than_gpus_are_refused_unless_they_run_on_the_cpu() -> None:
    check_workers(Settings(cluster=Cluster(workers=2)), 2, gpus=2)
    with pytest.raises(CallerError, match="4 workers take a GPU each, and there are 2"):
        check_workers(Settings(cluster=Cluster(workers=4)), 4, gpus=2)
    check_workers(Settings(cluster=Cluster(workers=4, device="cpu")), 4, gpus=0)


def test_gpus_that_are_not_there_are_refused_by_name() -> None:
    with pytest.raises(CallerError, match="there is no GPU here"):
        check_workers(Settings(cluster=Cluster(device="cuda")), 2, gpus=0)


def test_a_sqlite_log_is_for_one_machine(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    check_machines(settings, 1)
    check_machines(replace(settings, database_url="postgresql+psycopg://user@host/images"), 2)
    with pytest.raises(CallerError, match=r"the cluster has 2 machines.*use PostgreSQL"):
        check_machines(settings, 2)
