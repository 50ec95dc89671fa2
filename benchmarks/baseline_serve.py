"""What a user would otherwise deploy: Ray Serve with ordinary diffusers pipelines, first come first served.

    python -m benchmarks.baseline_serve [--models DIR] [--port 8000] [--replicas 2]

One replica per device; each holds every pipeline, so nobody waits for weights. A replica takes one request at a time
and the rest waits in Serve's queue. The reply is the file itself. Serve's router looks for a free replica every 10 ms
instead of its default of up to 0.5 s between looks: tuned as somebody who measures would.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig
from starlette.requests import Request
from starlette.responses import Response

from genserve.diffusion.catalog import Catalog, ModelEntry, parse_size

OPTIONS = ("num_frames", "negative_prompt", "num_inference_steps", "guidance_scale")
ROUTER = RequestRouterConfig(initial_backoff_s=0.01, backoff_multiplier=1.0, max_backoff_s=0.01)


def load_pipeline(entry: ModelEntry, models_dir: Path, device: str) -> Any:
    """StableDiffusion3Pipeline, FluxPipeline, WanPipeline: whatever the folder says it is."""
    import torch
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(str(entry.folder(models_dir)), dtype=getattr(torch, entry.dtype))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def generate(pipeline: Any, entry: ModelEntry, body: dict[str, Any], **extra: Any) -> tuple[bytes, str]:
    """One call of the pipeline: the file and its media type. ``extra`` goes to the pipeline as it is."""
    import torch

    from genserve.diffusion.artifacts import MEDIA_TYPES, encode_image, encode_video

    width, height = parse_size(body["size"])
    output = pipeline(
        prompt=body["prompt"],
        width=width,
        height=height,
        generator=torch.Generator("cpu").manual_seed(body["seed"]),
        max_sequence_length=entry.max_sequence_length,
        output_type="np",
        **{name: body[name] for name in OPTIONS if name in body},
        **extra,
    )
    pixels = output.frames[0] if entry.media == "video" else output.images
    frames = (pixels * 255).round().astype("uint8")
    if entry.media == "video":
        return encode_video(frames, entry.default_fps), MEDIA_TYPES["mp4"]
    return encode_image(frames), MEDIA_TYPES["png"]


class Pipelines:
    """One replica: all pipelines on one device."""

    def __init__(self, models_dir: Path, device: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._entries = {entry.name: entry for entry in Catalog.load().models}
        self._pipelines = {name: load_pipeline(entry, models_dir, device) for name, entry in self._entries.items()}

    async def __call__(self, request: Request) -> Response:
        body = await request.json()
        content, media_type = await asyncio.to_thread(self._generate, body)
        return Response(content, media_type=media_type)

    def _generate(self, body: dict[str, Any]) -> tuple[bytes, str]:
        return generate(self._pipelines[body["model"]], self._entries[body["model"]], body)


def baseline_app(models_dir: Path, *, replicas: int, device: str, threads: int) -> serve.Application:
    """The whole application, one GPU to a replica; where there is none, a logical one."""
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    deployment: Any = serve.deployment(
        Pipelines,
        num_replicas=replicas,
        max_ongoing_requests=1,
        max_queued_requests=-1,
        request_router_config=ROUTER,
        ray_actor_options={"num_cpus": 0, "num_gpus": 1, "runtime_env": {"env_vars": limits}},
    )
    application: serve.Application = deployment.bind(models_dir.absolute(), device, threads)
    return application


def start_baseline(models_dir: Path, *, port: int, replicas: int, device: str, threads: int) -> str:
    """Ray, Serve and the application; returns its URL when it answers."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(address="local", num_gpus=replicas, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(baseline_app(models_dir, replicas=replicas, device=device, threads=threads), name="baseline")
    return f"http://127.0.0.1:{port}/"


def stop_baseline() -> None:
    serve.shutdown()
    ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("var/models"))
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    url = start_baseline(
        arguments.models,
        port=arguments.port,
        replicas=arguments.replicas,
        device=arguments.device,
        threads=arguments.threads,
    )
    print(f"ready: POST {url}")
    try:
        asyncio.run(asyncio.Event().wait())
    except KeyboardInterrupt:
        stop_baseline()


if __name__ == "__main__":
    main()
