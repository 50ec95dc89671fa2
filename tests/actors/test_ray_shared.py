"""Cells in a Ray cluster that others use: they stand side by side, and take down nothing but themselves."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray import serve
from typer.testing import CliRunner

from actors.framework.ray_runtime import RayRuntime
from actors.framework.runtime import Runtime
from actors.serving import Serving
from genserve.cli.main import app
from genserve.config import Cluster, Http, Settings
from genserve.errors import CallerError
from tests.actors.foreign import Foreign
from tests.actors.ray_cell import settings_of
from tests.actors.server import PATIENCE_S, Server, free_port, kill_with_descendants, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.models, pytest.mark.slow, pytest.mark.timeout(300)]

IMAGE = {"model": "tiny-sd3", "prompt": "a fox", "size": "64x64", "num_inference_steps": 2, "response_format": "url"}


class Shared:
    """The cluster, and where its Ray Serve listens."""

    def __init__(self, port: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.address = process.stdout.readline().strip()
        self.url = f"http://127.0.0.1:{port}"

    @property
    def foreign(self) -> str:
        """What the others' application answers."""
        return httpx.get(f"{self.url}/foreign", timeout=10).text


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """Joined by this process too, so that it can look around."""
    port = free_port()
    command = [sys.executable, "-m", "tests.actors.foreign", str(port)]
    environ = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environ, **pipes) as process:
        try:
            shared = Shared(port, process)
            ray.init(address=shared.address, log_to_driver=False)
            yield shared
        finally:
            ray.shutdown()
            kill_with_descendants(process)


def a_server(shared: Shared, folder: Path, models_dir: Path, name: str) -> Server:
    server = Server(
        folder / name,
        models_dir,
        GENSERVE_CLUSTER__ADDRESS=shared.address,
        GENSERVE_CLUSTER__NAME=name,
        GENSERVE_CLUSTER__WORKERS="1",
        GENSERVE_CLUSTER__REQUEST_ACTORS="1",
        GENSERVE_HTTP__ROUTE_PREFIX=f"/{name}",
    )
    server.url = f"{shared.url}/{name}"
    return server


class Left:
    """An actor that somebody forgot."""

    def __init__(self, _runtime: Runtime) -> None: ...


def actors_of(name: str) -> list[str]:
    return asyncio.run(RayRuntime(name).names())


@pytest.fixture(scope="module")
def first(shared: Shared, tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[Server]:
    """A cell that runs during all tests of this module."""
    server = a_server(shared, tmp_path_factory.mktemp("cells"), models_dir, "first")
    with server.running():
        yield server


@pytest.fixture(scope="module")
def second(shared: Shared, tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[Server]:
    """A cell that finds what a killed process with its name would have left: an actor and an application."""
    asyncio.run(RayRuntime("second").spawn("worker-7", Left))
    serve.run(serve.deployment(Foreign).bind(), name="second", route_prefix="/left")
    server = a_server(shared, tmp_path_factory.mktemp("cells"), models_dir, "second")
    with server.running():
        yield server


def test_a_cell_says_where_the_cluster_serves_it(shared: Shared, first: Server) -> None:
    assert f"Ray Serve: runs already and listens at {shared.url.removeprefix('http://')} of " in first.said
    assert f"ready: {first.url};" in first.said


def test_links_and_the_api_page_are_below_the_route_prefix(first: Server) -> None:
    (image,) = first.post("/v1/images/generations", IMAGE).raise_for_status().json()["data"]
    assert image["url"].startswith(f"{first.url}/v1/images/")
    assert httpx.get(image["url"]).raise_for_status().content.startswith(b"\x89PNG")
    assert "'/first/openapi.json'" in httpx.get(f"{first.url}/docs").text
    assert httpx.get(f"{first.url}/openapi.json").json()["servers"] == [{"url": "/first"}]


def test_commands_reach_a_cell_below_its_route_prefix(first: Server, tmp_path: Path) -> None:
    def genserve(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, "--url", first.url])
        assert result.exit_code == 0, result.output
        return result.stdout

    file = tmp_path / "fox.png"
    genserve("submit", "image", "a fox", "--size", "64x64", "--steps", "2", "--out", str(file))
    assert file.read_bytes().startswith(b"\x89PNG")
    request_id = httpx.get(f"{first.url}/v1/requests").json()["data"][0]["id"]
    assert request_id in genserve("status")
    assert "RequestCompleted" in genserve("events", request_id)


def test_a_second_start_under_a_running_cells_name_is_refused(
    shared: Shared, first: Server, tmp_path: Path, models_dir: Path
) -> None:
    again = a_server(shared, tmp_path, models_dir, "first")
    assert again.start().wait(PATIENCE_S) == 2
    assert "a cell named 'first' runs in this cluster" in again.said
    assert again.said.rstrip().endswith("[cell_running]")
    assert not (again.folder / "data" / "genserve.db").exists()
    first.post("/v1/images/generations", IMAGE).raise_for_status()


@pytest.mark.parametrize(
    ("name", "route_prefix", "code"),
    [("other", "/foreign", "route_prefix_taken"), ("foreign", "/other", "name_taken")],
)
def test_what_others_serve_is_refused(shared: Shared, name: str, route_prefix: str, code: str) -> None:
    settings = Settings(http=Http(route_prefix=route_prefix), cluster=Cluster(address=shared.address, name=name))
    with pytest.raises(CallerError) as refusal:
        Serving(settings, print).check(is_name_ours=False)
    assert refusal.value.code == code


def test_what_a_killed_cell_left_behind_makes_room_for_its_next_start(shared: Shared, second: Server) -> None:
    assert "Ray: removing 1 actors that an earlier start left behind" in second.said
    assert httpx.get(f"{shared.url}/left").status_code == 404


def test_a_start_that_is_given_up_leaves_no_application(shared: Shared, tmp_path: Path, models_dir: Path) -> None:
    cluster = {"address": shared.address, "name": "hasty"}
    serving = Serving(settings_of(tmp_path, models_dir, cluster=cluster, http=Http(route_prefix="/hasty")), print)
    with ThreadPoolExecutor(1) as background:
        start = background.submit(serving.start)
        wait_for(lambda: start.done() or "/hasty" in httpx.get(f"{shared.url}/-/routes").text, "deployment")
        serving.stop()
        start.result()
    assert "hasty" not in serve.status().applications


def test_a_second_cell_serves_beside_the_first(first: Server, second: Server) -> None:
    for cell in (first, second):
        answer = cell.post("/v1/images/generations", IMAGE).raise_for_status().json()
        assert answer["data"][0]["url"].startswith(f"{cell.url}/v1/images/")
    assert actors_of("first") == actors_of("second") == ["request-0", "scheduler", "worker-0"]


def test_a_cell_that_stops_takes_nothing_down_but_itself(shared: Shared, first: Server, second: Server) -> None:
    assert second.stop() == 0, second.said[-3000:]
    assert actors_of("second") == []
    assert httpx.get(f"{second.url}/health").status_code == 404
    assert shared.foreign == "foreign"
    first.post("/v1/images/generations", IMAGE).raise_for_status()
