"""The client commands against a served app over a fake gateway."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from typer.testing import CliRunner

from genserve.cli.client import Client
from genserve.cli.main import app
from genserve.config import Admission
from genserve.errors import RefusedByPolicy
from tests.api.conftest import Served


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served()
    yield server
    server.close()


@pytest.fixture
def genserve(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run one command in an empty folder, with the server named by the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENSERVE_URL", served.url)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def submitted(genserve: Callable[..., Any], media: str = "video") -> str:
    return str(json.loads(genserve("submit", media, "waves", "--no-wait", "--json").stdout)["id"])


def test_submit_saves_an_image_and_says_how_it_went(genserve: Callable[..., Any], tmp_path: Path) -> None:
    result = genserve("submit", "image", "a cat", "--size", "64x64", "--seed", "7", "--slo", "30s", "--out", "cat.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "cat.png").read_bytes().startswith(b"image 0 of img_")
    assert "cat.png: " in result.stdout
    assert "30.0 s before its deadline, paused 0 times" in result.stdout


def test_creates_are_given_the_time_that_a_verdict_may_take() -> None:
    reads = []

    def answer(request: httpx.Request) -> httpx.Response:
        reads.append(request.extensions["timeout"]["read"])
        return httpx.Response(200, json={"id": "vid_1"}, headers={"genserve-request-ids": "img_1"})

    longest_s = msgspec.json.schema(Admission)["$defs"]["Admission"]["properties"]["verdict_within_s"]["maximum"]
    with Client("http://server", transport=httpx.MockTransport(answer)) as client:
        client.post("/v1/videos", {}, key="k")
        client.submit_image({}, key="k")
    assert min(reads) > longest_s


def test_submit_sends_every_option(genserve: Callable[..., Any], served: Served) -> None:
    options = (
        "--model tiny-wan --size 64x32 --seconds 1 --fps 4 --seed 5 --steps 3 --guidance 2.5 --priority 4 --slo 1.5m"
    )
    result = genserve("submit", "video", "waves", *options.split(), "--negative", "rain", "-o", "w.mp4")
    (spec,) = served.gateway.specs
    assert result.exit_code == 0, result.output
    assert (str(spec.shape), spec.fps, spec.seed, spec.steps) == ("64x32x5", 4, 5, 3)
    assert (spec.guidance_scale, spec.priority, spec.negative_prompt) == (2.5, 4, "rain")
    assert spec.deadline_us - spec.arrival_us == 90_000_000


def test_submit_as_json_names_the_file(genserve: Callable[..., Any], tmp_path: Path) -> None:
    found = json.loads(genserve("submit", "image", "a cat", "--format", "webp", "--json").stdout)
    assert (found["status"], found["deadline_met"], found["file"]) == ("completed", True, f"{found['id']}.webp")
    assert (tmp_path / found["file"]).exists()


def test_a_failed_request_exits_with_1_and_its_reason(genserve: Callable[..., Any], served: Served) -> None:
    served.gateway.step_s = 60.0

    def fail_soon() -> None:
        while not served.gateway.rows:
            time.sleep(0.001)
        loop.call_soon_threadsafe(served.gateway.fail, served.gateway.specs[0].request_id)

    loop = served.loop
    thread = threading.Thread(target=fail_soon)
    thread.start()
    result = genserve("submit", "video", "waves")
    thread.join()
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no room on w0 [out_of_memory]" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["submit", "image", "a cat", "--size", "100x100"], "use a multiple of 16"),
        (["submit", "image", "a cat", "--slo", "soon"], "a duration is written 500ms, 30s"),
        (["submit", "image", "a cat", "--slo", "-5s"], "a duration is written 500ms, 30s"),
        (["submit", "image", "a cat", "--slo", "0s"], "slo_ms is 1 to"),
        (["submit", "image", "a cat", "--deadline", "2020-01-01T00:00:00Z"], "in the past"),
        (["submit", "image", "a cat", "--out", "no/such/folder/x.png"], "create it, or change --out"),
        (["status", "nope"], "there is no request 'nope'"),
        (["events", "nope"], "there is no request 'nope'"),
        (["cancel", "nope"], "there is no request 'nope'"),
        (["models", "list", "--catalog", "nope.toml"], "nope.toml"),
        (["status", "--url", "not a url"], "is no server address"),
        (["submit", "audio", "x"], "No such command"),
        (["status", "--limit", "0"], "--limit"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_to_change(
    genserve: Callable[..., Any], served: Served, arguments: list[str], says: str
) -> None:
    result = genserve(*arguments)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert served.gateway.rows == {}


def test_a_server_that_is_not_there_exits_with_3(genserve: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for command in (["status"], ["submit", "image", "x"], ["events", "x"], ["cancel", "x"]):
        result = genserve(*command, "--url", f"http://127.0.0.1:{port}")
        assert result.exit_code == 3, result.output
        assert "is 'genserve serve' running there?" in result.stderr
        assert "Traceback" not in result.output


def test_a_full_queue_exits_with_3(genserve: Callable[..., Any], served: Served) -> None:
    served.gateway.outage = RefusedByPolicy("queue_full", "the queue is full; try again later")
    result = genserve("submit", "image", "a cat")
    assert (result.exit_code, result.stderr) == (3, "error: the queue is full; try again later [queue_full]\n")


def test_a_server_that_is_something_else_is_reported(genserve: Callable[..., Any], served: Served) -> None:
    result = genserve("status", "--url", served.url + "/elsewhere")
    assert result.exit_code == 2
    assert "there is no GET" in result.stderr


def test_status_lists_requests_below_the_health(genserve: Callable[..., Any], served: Served) -> None:
    video_id = submitted(genserve)
    result = genserve("status")
    assert result.exit_code == 0
    assert f"{served.url}: ok, scheduler ready, 2 workers" in result.stdout
    assert video_id in result.stdout
    found = json.loads(genserve("status", "--json").stdout)
    assert (found["health"]["status"], found["requests"][0]["id"]) == ("ok", video_id)


def test_status_of_a_server_that_is_not_ready_exits_with_3(genserve: Callable[..., Any], served: Served) -> None:
    served.gateway.is_healthy = False
    result = genserve("status")
    assert result.exit_code == 3
    assert "unavailable, scheduler lost, 0 workers" in result.stdout


def test_status_of_one_request(genserve: Callable[..., Any]) -> None:
    video_id = submitted(genserve)
    list(genserve("events", video_id, "--follow").stdout)
    shown = genserve("status", video_id).stdout
    assert "completed, 16 of 16 steps, paused 0 times" in shown
    assert "forecast  met" in shown
    assert json.loads(genserve("status", video_id, "--json").stdout)["id"] == video_id


def test_events_follow_to_the_end_or_stop_at_the_present(genserve: Callable[..., Any], served: Served) -> None:
    served.gateway.step_s = 0.01
    video_id = submitted(genserve)
    present = genserve("events", video_id).stdout.splitlines()
    everything = [json.loads(line) for line in genserve("events", video_id, "--follow", "--json").stdout.splitlines()]
    again = genserve("events", video_id, "--after", str(everything[-1]["position"]))
    assert "RequestSubmitted" in present[0]
    assert "RequestCompleted" not in present[-1]
    assert everything[-1]["type"] == "RequestCompleted"
    assert [event["position"] for event in everything] == sorted(event["position"] for event in everything)
    assert (again.exit_code, again.stdout) == (0, "")


def test_cancel_stops_a_request_once(genserve: Callable[..., Any], served: Served) -> None:
    served.gateway.step_s = 60.0
    video_id = submitted(genserve)
    assert "stops at its next step boundary" in genserve("cancel", video_id).stdout
    assert "had ended already: cancelled" in genserve("cancel", video_id).stdout
    assert len(served.gateway.cancels) == 1


def test_models_come_from_the_server_or_else_from_the_catalog(genserve: Callable[..., Any]) -> None:
    here = genserve("models", "list")
    away = genserve("models", "list", "--url", "http://127.0.0.1:9", "--json")
    assert "tiny-wan         video  128x128 x 17 frames, 16 steps" in here.stdout
    assert [model["id"] for model in json.loads(away.stdout)] == ["tiny-sd3", "tiny-wan", "tiny-flux"]
    assert "no server at http://127.0.0.1:9" in away.stderr


def test_ctrl_c_leaves_the_request_running(served: Served, tmp_path: Path) -> None:
    served.gateway.step_s = 60.0
    command = [sys.executable, "-m", "genserve", "submit", "video", "waves", "--url", served.url]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not served.gateway.followers:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "goes on; 'genserve cancel vid_" in said
    assert served.gateway.cancels == []
