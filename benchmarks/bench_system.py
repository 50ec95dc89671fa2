"""What the whole system adds to a plain diffusers call: one image and one video alone, side by side in one run.

    python -m benchmarks.bench_system [--json] [--rounds 5] [--models DIR]

A plain pipeline (one thread, this process) and a full cell (Ray, Serve, SQLite, one worker with one thread) take
turns with the same request. Steps take at least 50 ms. Also: HTTP latencies, actor activation, size of the log,
the journal's share of the work, and decisions replayed per second of the log that this run wrote.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import torch

from actors.app import Cell
from actors.framework.ray_runtime import RayRuntime
from actors.request import RequestActor, RequestActorSettings
from genserve.audit.replay import replay
from genserve.config import Cluster, Http, Settings, Telemetry
from genserve.diffusion.artifacts import encode_image, encode_video
from genserve.diffusion.build import build_models
from genserve.diffusion.catalog import Catalog, ModelEntry
from genserve.domain.events import RequestSubmitted, StageFinished, StageStarted, StepsFinished
from genserve.domain.ids import request_stream
from genserve.domain.request import Stage
from genserve.journal.open import open_reader

IMAGE = {
    "model": "tiny-sd3",
    "size": "384x384",
    "num_inference_steps": 16,
    "guidance_scale": 4.5,
    "negative_prompt": "",
}
FLUX = {"model": "tiny-flux", "size": "384x384", "num_inference_steps": 16, "guidance_scale": 3.5}
VIDEO = {
    "model": "tiny-wan",
    "size": "192x192",
    "num_frames": 17,
    "num_inference_steps": 12,
    "guidance_scale": 5.0,
    "negative_prompt": "",
}
ACTIVATIONS = 10
SUBMISSIONS = 60


class Plain:
    """What a user would otherwise call: the ordinary pipeline of a checkpoint folder."""

    def __init__(self, entry: ModelEntry, models_dir: Path) -> None:
        from diffusers import DiffusionPipeline

        self._pipeline: Any = DiffusionPipeline.from_pretrained(str(entry.folder(models_dir)), dtype=torch.float32)
        self._pipeline.set_progress_bar_config(disable=True)
        self._media = entry.media

    def run(self, body: dict[str, Any], *, seed: int) -> tuple[float, float]:
        """Seconds of the whole call with encoding of the file, and seconds per step in steady state."""
        marks: list[float] = []

        def note(*args: Any) -> Any:
            marks.append(time.perf_counter())
            return args[-1]

        width, height = (int(side) for side in body["size"].split("x"))
        options: dict[str, Any] = {name: body[name] for name in ("num_frames", "negative_prompt") if name in body}
        began = time.perf_counter()
        output = self._pipeline(
            prompt="a fox in the snow",
            width=width,
            height=height,
            num_inference_steps=body["num_inference_steps"],
            guidance_scale=body["guidance_scale"],
            generator=torch.Generator("cpu").manual_seed(seed),
            max_sequence_length=64,
            output_type="np",
            callback_on_step_end=note,
            **options,
        )
        self._encode(output)
        whole = time.perf_counter() - began
        return whole, (marks[-1] - marks[0]) / (len(marks) - 1)

    def _encode(self, output: Any) -> None:
        pixels = output.frames[0] if self._media == "video" else output.images
        frames = (pixels * 255).round().astype("uint8")
        if self._media == "video":
            encode_video(frames, 8)
        else:
            encode_image(frames)


def run_through_system(client: httpx.Client, reader: Any, body: dict[str, Any], *, seed: int) -> tuple[float, float]:
    """Seconds from submission to the stored result by the log's clock, and seconds per step."""
    is_video = "num_frames" in body
    path = "/v1/videos" if is_video else "/v1/images/generations"
    extra = {} if is_video else {"response_format": "url"}
    answer = client.post(path, json={**body, **extra, "prompt": "a fox in the snow", "seed": seed}).raise_for_status()
    request_id = answer.json()["id"] if is_video else answer.json()["data"][0]["id"]
    row = wait_until_over(client, request_id)
    steps = [r.event for r in reader.read_stream(request_stream(request_id)) if isinstance(r.event, StepsFinished)]
    per_step = sum(s.took_us for s in steps) / sum(s.to_step - s.from_step for s in steps) / 1e6
    return row["latency_ms"] / 1000, per_step


def wait_until_over(client: httpx.Client, request_id: str) -> dict[str, Any]:
    """By the event stream: polling would take time from the steps that are measured."""
    with client.stream("GET", f"/v1/requests/{request_id}/events") as events:
        for _ in events.iter_lines():
            pass
    row: dict[str, Any] = client.get(f"/v1/requests/{request_id}").raise_for_status().json()
    return row


def compare(
    plain: Callable[[int], tuple[float, float]], system: Callable[[int], tuple[float, float]], rounds: int
) -> dict[str, Any]:
    """Both in turn after a warm-up; medians, and the ratio round by round."""
    plain(0), system(0)
    pairs = [(plain(seed), system(seed)) for seed in range(1, rounds + 1)]
    ratios = [ours[1] / theirs[1] for theirs, ours in pairs]
    return {
        "plain_step_ms": statistics.median(p[1] for p, _ in pairs) * 1e3,
        "system_step_ms": statistics.median(s[1] for _, s in pairs) * 1e3,
        "step_ratio": statistics.median(ratios),
        "step_ratio_range": [min(ratios), max(ratios)],
        "plain_s": statistics.median(p[0] for p, _ in pairs),
        "system_s": statistics.median(s[0] for _, s in pairs),
        "fixed_cost_ms": statistics.median(s[0] - p[0] for p, s in pairs) * 1e3,
    }


def measure_http(client: httpx.Client, reader: Any) -> dict[str, float]:
    """Submit to acknowledged, and acknowledged to the first stage begun on an idle worker."""
    body = {"model": "tiny-wan", "size": "32x32", "num_frames": 5, "num_inference_steps": 1, "prompt": "x"}
    waits, starts = [], []
    for seed in range(SUBMISSIONS):
        began = time.perf_counter()
        request_id = client.post("/v1/videos", json={**body, "seed": seed}).raise_for_status().json()["id"]
        waits.append((time.perf_counter() - began) * 1e3)
        wait_until_over(client, request_id)
        starts.append(first_step_ms(reader, request_id))
    return {
        "submit_to_ack_p50_ms": statistics.median(waits),
        "submit_to_ack_p99_ms": statistics.quantiles(waits, n=100)[98],
        "ack_to_first_stage_p50_ms": statistics.median(starts),
        "ack_to_first_stage_p99_ms": statistics.quantiles(starts, n=100)[98],
    }


def first_step_ms(reader: Any, request_id: str) -> float:
    events = reader.read_stream(request_stream(request_id))
    submitted = next(r.recorded_us for r in events if isinstance(r.event, RequestSubmitted))
    started = next(r.recorded_us for r in events if isinstance(r.event, StageStarted))
    return (started - submitted) / 1e3


async def measure_activation(folder: Path) -> dict[str, float]:
    """A pooled request actor against a fresh one: time until it answers."""
    runtime, settings = RayRuntime("bench"), RequestActorSettings(folder, folder)
    fresh, pooled = [], []
    for i in range(ACTIVATIONS):
        began = time.perf_counter()
        ref = await runtime.spawn(f"bench-{i}", RequestActor, settings)
        await ref.ask("serving")
        fresh.append((time.perf_counter() - began) * 1e3)
        began = time.perf_counter()
        await ref.ask("serving")
        pooled.append((time.perf_counter() - began) * 1e3)
        await runtime.kill(f"bench-{i}")
    return {"fresh_ms": statistics.median(fresh), "pooled_ms": statistics.median(pooled)}


def measure_log(reader: Any) -> dict[str, float]:
    """Size of the log per request, the journal's share of the work, and the speed of replay."""
    rows = reader.read_rows(0, 1_000_000)
    history = reader.read(0, 1_000_000)
    requests = sum(isinstance(r.event, RequestSubmitted) for r in history)
    work_us = sum(r.event.took_us for r in history if isinstance(r.event, StageFinished))
    replayed = replay(history)
    return {
        "events_per_request": len(rows) / requests,
        "bytes_per_request": sum(len(row.payload) for row in rows) / requests,
        "work_s": work_us / 1e6,
        "decisions": replayed.decisions,
        "decisions_equal": replayed.equal,
        "decisions_per_s": replayed.decisions / replayed.took_s,
        "denoise_events": sum(isinstance(r.event, StageFinished) and r.event.stage is Stage.DENOISE for r in history),
    }


async def run(rounds: int, models_dir: Path) -> dict[str, Any]:
    """Everything, in one cell."""
    torch.set_num_threads(1)
    catalog = Catalog.load()
    build_models(models_dir, catalog)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            data_dir=Path(folder),
            models_dir=models_dir,
            http=Http(port=8321),
            cluster=Cluster(workers=1),
            telemetry=Telemetry(log_level="warning"),
        )
        cell = Cell(settings)
        await cell.start()
        try:
            return await asyncio.to_thread(measure, cell, rounds, catalog, models_dir, folder)
        finally:
            await cell.stop()


def measure(cell: Cell, rounds: int, catalog: Catalog, models_dir: Path, folder: str) -> dict[str, Any]:
    reader = open_reader(cell.settings.database)
    results: dict[str, Any] = {}
    with httpx.Client(base_url=cell.url, timeout=120) as client:
        for name, body in (("image, sd3", IMAGE), ("image, flux", FLUX), ("video, wan", VIDEO)):
            plain = Plain(catalog.get(str(body["model"])), models_dir)
            results[name] = compare(
                lambda seed, plain=plain, body=body: plain.run(body, seed=seed),
                lambda seed, body=body: run_through_system(client, reader, body, seed=seed),
                rounds,
            )
        journal = journal_seconds(client)
        results["log"] = measure_log(reader)
        results["log"]["journal_share"] = journal / results["log"]["work_s"]
        results["http"] = measure_http(client, reader)
    results["activation"] = asyncio.run(measure_activation(Path(folder)))
    return results


def journal_seconds(client: httpx.Client) -> float:
    """Time spent in the journal so far, from its own histogram."""
    for line in client.get("/metrics").raise_for_status().text.splitlines():
        if line.startswith("genserve_journal_append_seconds_sum"):
            return float(line.rsplit(" ", 1)[1])
    raise LookupError("no genserve_journal_append_seconds in /metrics")


def show(results: dict[str, Any]) -> None:
    for group, values in results.items():
        print(group)
        for name, value in values.items():
            shown = ", ".join(f"{v:.3f}" for v in value) if isinstance(value, list) else f"{value:.3f}"
            print(f"  {name:<28} {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", type=Path, default=Path("var/models"))
    arguments = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = asyncio.run(run(arguments.rounds, arguments.models))
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        show(results)


if __name__ == "__main__":
    main()
