"""The demo's load: a burst of images and videos with deadlines, watched over HTTP; not the server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.live import Live
from rich.table import Table

from genserve.scheduling.files import write_durably

POLL_S = 0.4


@dataclass(slots=True)
class Job:
    """One request of the demo. ``at_s`` is when it is sent, ``slo_s`` how long after that it is due."""

    name: str
    body: dict[str, Any]
    at_s: float
    slo_s: float
    status: str = "not sent"
    details: dict[str, Any] = field(default_factory=dict)
    """The server's view of the request, once it has one."""

    @property
    def prompt(self) -> str:
        return f"a fox in the snow, {self.name}"

    @property
    def is_video(self) -> bool:
        return "video" in self.name

    @property
    def is_over(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")


def planned_jobs() -> list[Job]:
    """Three videos take all GPUs; images with short deadlines come while they run.

    First come, first served would let every image wait behind the videos.
    """
    videos = [
        Job(f"video-{i}", {"model": "tiny-wan", "size": "256x256", "num_frames": 17, "seed": i}, 0.2 * i, 60.0)
        for i in range(3)
    ]
    small = [
        Job(f"image-{i}", {"model": "tiny-sd3", "size": "256x256", "seed": i}, 3.0 + 1.5 * i, 6.0) for i in range(6)
    ]
    large = [
        Job(f"large-{i}", {"model": "tiny-flux", "size": "384x384", "seed": i}, 4.0 + 3.0 * i, 8.0) for i in range(3)
    ]
    return sorted((*videos, *small, *large), key=lambda job: job.at_s)


async def run_load(url: str, out: Path) -> list[Job]:
    """Send everything at its time, show progress until all is over, and save the results."""
    jobs, screen = planned_jobs(), Console(stderr=True)
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        with Live(_progress_table(jobs), refresh_per_second=4, console=screen) as live:
            sending = [asyncio.create_task(_send(client, job)) for job in jobs]
            while not all(job.is_over for job in jobs):
                await _refresh(client, jobs)
                live.update(_progress_table(jobs))
                await asyncio.sleep(POLL_S)
            await asyncio.gather(*sending)
        screen.print()
        await asyncio.gather(*(_save(client, job, out) for job in jobs if job.status == "completed"))
    return jobs


async def _send(client: httpx.AsyncClient, job: Job) -> None:
    """A video call answers with a job at once, an image call when the image is there."""
    await asyncio.sleep(job.at_s)
    body = {**job.body, "prompt": job.prompt, "slo_ms": int(job.slo_s * 1000)}
    job.status = "sent"
    if job.is_video:
        answer = await client.post("/v1/videos", json=body)
    else:
        answer = await client.post("/v1/images/generations", json={**body, "response_format": "url"})
    answer.raise_for_status()


async def _refresh(client: httpx.AsyncClient, jobs: list[Job]) -> None:
    """Where every job stands, by its prompt: image calls tell no id before they are done."""
    answer = await client.get("/v1/requests", params={"limit": 100})
    found = {row["prompt"]: row for row in answer.raise_for_status().json()["data"]}
    for job in jobs:
        job.details = found.get(job.prompt, job.details)
        if job.details:
            job.status = job.details["status"]


async def _save(client: httpx.AsyncClient, job: Job, out: Path) -> None:
    kind, extension = ("videos", "mp4") if job.is_video else ("images", "png")
    answer = await client.get(f"/v1/{kind}/{job.details['id']}/content")
    await asyncio.to_thread(write_durably, out / f"{job.name}.{extension}", answer.raise_for_status().content)


def _progress_table(jobs: list[Job]) -> Table:
    table = Table("request", "model", "status", "progress", title="GenServe demo")
    for job in jobs:
        percent = job.details.get("progress", 0)
        table.add_row(job.name, job.body["model"], job.status, f"{'█' * (percent // 5):<20} {percent:3}%")
    return table


def print_results(jobs: list[Job]) -> None:
    """One row per request: was the deadline met, and how often was it paused for others?"""
    table = Table(title="Results")
    for column in ("request", "model", "size", "deadline s", "latency s", "deadline", "paused"):
        table.add_column(column, justify="right" if column.endswith(" s") or column == "paused" else "left")
    for job in jobs:
        table.add_row(*_row(job))
    Console().print(table)
    met = sum(job.details.get("deadline_met") is True for job in jobs)
    print(f"{met} of {len(jobs)} deadlines met, {sum(job.details.get('pauses', 0) for job in jobs)} pauses")


def _row(job: Job) -> tuple[str, ...]:
    details = job.details
    is_met = details.get("deadline_met")
    verdict = job.status if is_met is None else ("met" if is_met else "missed")
    latency = f"{details['latency_ms'] / 1000:.1f}" if details.get("latency_ms") is not None else "-"
    size = f"{details.get('size')}" + (f"x{details['num_frames']}" if job.is_video else "")
    return job.name, job.body["model"], size, f"{job.slo_s:.1f}", latency, verdict, str(details.get("pauses", 0))
