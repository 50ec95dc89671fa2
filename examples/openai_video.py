"""Make a video with the unmodified openai client: create, poll as the server says, download, delete.

Run `genserve serve` first, then: python examples/openai_video.py
"""

from __future__ import annotations

import os
import time
import warnings

from openai import OpenAI

warnings.simplefilter("ignore", DeprecationWarning)  # OpenAI retires its own video service, not the interface

client = OpenAI(base_url=os.environ.get("GENSERVE_URL", "http://127.0.0.1:8000") + "/v1", api_key="EMPTY")

video = client.videos.create(
    prompt="waves at dusk",
    extra_body={"model": "tiny-wan", "seconds": "2", "size": "128x128", "slo_ms": 120_000},
    extra_headers={"Idempotency-Key": f"waves-{time.time()}"},  # a repeated call makes no second video
)
print(video.id, video.status)

video = client.videos.poll(video.id)
if video.status == "failed":
    raise SystemExit(f"failed: {video.error}")

client.videos.download_content(video.id).write_to_file("waves.mp4")
client.videos.download_content(video.id, variant="thumbnail").write_to_file("waves.webp")
print("wrote waves.mp4 and waves.webp")

client.videos.delete(video.id)
