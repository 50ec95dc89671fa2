"""The load that live systems are compared under: classes of requests, their arrivals, and an open-loop client.

Open loop: a request is sent at its time whatever became of those before it. Latency counts from the time at which a
request was due to be sent until the last byte of its file is here.
"""

from __future__ import annotations

import asyncio
import base64
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

PATIENCE_S = 300.0


@dataclass(frozen=True)
class Kind:
    """A class of requests; ``share`` of all arrivals. ``body`` is what both servers understand."""

    name: str
    share: float
    body: dict[str, Any]

    @property
    def media(self) -> str:
        return "video" if "num_frames" in self.body else "image"


def _kind(name: str, share: float, model: str, size: str, steps: int, **more: Any) -> Kind:
    return Kind(name, share, {"model": model, "size": size, "num_inference_steps": steps, **more})


_GUIDED = {"guidance_scale": 5.0, "negative_prompt": ""}

KINDS = (
    _kind("image-sd3", 0.35, "tiny-sd3", "256x256", 10, guidance_scale=4.5, negative_prompt=""),
    _kind("image-flux", 0.35, "tiny-flux", "256x256", 10, guidance_scale=3.5),
    _kind("video-small", 0.15, "tiny-wan", "192x192", 12, num_frames=9, **_GUIDED),
    _kind("video-large", 0.15, "tiny-wan", "256x256", 12, num_frames=9, **_GUIDED),
)
"""Steps of about 35 to 50 ms for images, 110 to 240 ms for videos, on one core."""

SMALL_KINDS = (
    _kind("image-small", 0.7, "tiny-sd3", "64x64", 4, guidance_scale=4.5, negative_prompt=""),
    _kind("video-small", 0.3, "tiny-wan", "64x64", 8, num_frames=5, **_GUIDED),
)
"""To see that everything works; their times say little."""


@dataclass(frozen=True)
class Arrival:
    """One request: when it is sent, seconds after the start, and how long after that it is due."""

    at_s: float
    allowance_s: float
    kind: Kind
    prompt: str
    seed: int

    @property
    def body(self) -> dict[str, Any]:
        return {**self.kind.body, "prompt": self.prompt, "seed": self.seed}


@dataclass(frozen=True)
class Answer:
    """What came of an arrival. ``latency_s`` is None where no file came; ``lag_s`` is how late it was sent."""

    arrival: Arrival
    latency_s: float | None
    size_bytes: int
    lag_s: float
    request_id: str = ""
    error: str = ""

    @property
    def is_met(self) -> bool:
        return self.latency_s is not None and self.latency_s <= self.arrival.allowance_s


Send = Callable[[httpx.AsyncClient, Arrival, float], Awaitable[tuple[bytes, str]]]
"""Sends an arrival that is due at a Unix time; returns the file and the server's name for the request."""


def draw_arrivals(
    kinds: Sequence[Kind], rate_per_s: float, duration_s: float, allowance_s: dict[str, float], *, seed: int
) -> list[Arrival]:
    """Poisson arrivals of all kinds; equal seeds give equal arrivals. No two prompts are equal."""
    draw, now_s = random.Random(f"live/{seed}"), 0.0
    arrivals: list[Arrival] = []
    while (now_s := now_s + draw.expovariate(rate_per_s)) < duration_s:
        (kind,) = draw.choices(kinds, [k.share for k in kinds])
        prompt = f"a fox in the snow, take {len(arrivals)} of {seed}"
        arrivals.append(Arrival(now_s, allowance_s[kind.name], kind, prompt, len(arrivals)))
    return arrivals


async def drive(url: str, arrivals: Sequence[Arrival], send: Send) -> list[Answer]:
    """Send everything at its time and wait for all the files."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=limits) as client:
        began_s = time.time()
        return await asyncio.gather(*(_send_at(client, arrival, began_s, send) for arrival in arrivals))


async def _send_at(client: httpx.AsyncClient, arrival: Arrival, began_s: float, send: Send) -> Answer:
    due_s = began_s + arrival.at_s
    await asyncio.sleep(max(0.0, due_s - time.time()))
    lag_s = time.time() - due_s
    try:
        content, request_id = await send(client, arrival, due_s + arrival.allowance_s)
    except (httpx.HTTPError, LookupError) as error:
        return Answer(arrival, None, 0, lag_s, error=repr(error))
    return Answer(arrival, time.time() - due_s, len(content), lag_s, request_id)


async def send_to_baseline(client: httpx.AsyncClient, arrival: Arrival, _: float) -> tuple[bytes, str]:
    answer = await client.post("/", json=arrival.body)
    return answer.raise_for_status().content, ""


async def send_to_genserve(client: httpx.AsyncClient, arrival: Arrival, deadline_s: float) -> tuple[bytes, str]:
    """Images by one blocking call; videos as jobs, followed by their events, then fetched."""
    body = {**arrival.body, "deadline": deadline_s}
    if arrival.kind.media == "image":
        answer = (await client.post("/v1/images/generations", json=body)).raise_for_status().json()
        return base64.b64decode(answer["data"][0]["b64_json"]), answer["data"][0]["id"]
    request_id = (await client.post("/v1/videos", json=body)).raise_for_status().json()["id"]
    async with client.stream("GET", f"/v1/requests/{request_id}/events") as events:
        async for _ in events.aiter_lines():
            pass
    content = await client.get(f"/v1/videos/{request_id}/content")
    return content.raise_for_status().content, request_id
