"""Make images with the unmodified openai client: two at once, by a deadline, and one with previews.

Run `genserve serve` first, then: python examples/openai_image.py
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("GENSERVE_URL", "http://127.0.0.1:8000") + "/v1", api_key="EMPTY")

reply = client.images.generate(
    prompt="a lighthouse in a storm",
    model="tiny-sd3",
    size="256x256",
    n=2,
    extra_body={"seed": 7, "slo_ms": 20_000},  # our additions travel in extra_body
)
for index, image in enumerate(reply.data or []):
    path = Path(f"lighthouse-{index}.png")
    path.write_bytes(base64.b64decode(image.b64_json or ""))
    print("wrote", path)

for event in client.images.generate(prompt="the same at dawn", size="256x256", stream=True, partial_images=2):
    name = "dawn.png" if event.type == "image_generation.completed" else f"dawn-{event.partial_image_index}.png"
    Path(name).write_bytes(base64.b64decode(event.b64_json))
    print("wrote", name)
