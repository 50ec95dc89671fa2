"""The bodies that create accepts, field by field; not which values a model can do (see the catalog and specs).

Unknown fields are refused. Fields of the OpenAI API that change nothing here are accepted and ignored, those that
would change the result are refused by name: a client must not believe that they did something.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Int = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Float = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=200)]
Ignored = Annotated[str | None, Field(max_length=200, description="Accepted for compatibility; changes nothing here.")]


class CreateBody(BaseModel):
    """What images and videos have in common."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str
    model: Name | None = Field(None, description="By default the first model of this kind in GET /v1/models.")
    size: Annotated[str, Field(max_length=40)] | None = Field(None, description="WIDTHxHEIGHT or auto.")
    width: Int | None = Field(None, description="With height, in place of size.")
    height: Int | None = None
    negative_prompt: str | None = None
    num_inference_steps: Int | None = None
    guidance_scale: Float | None = None
    seed: Int | None = Field(None, description="Random where absent; image i of n gets seed + i.")
    slo_ms: Int | None = Field(None, description="When the result is due, in milliseconds from now.")
    deadline: Annotated[str, Field(max_length=64)] | Int | Float | None = Field(
        None, description="When the result is due: ISO 8601 with a zone, or Unix seconds."
    )
    priority: Int | None = Field(None, description="-100 to 100, higher is more urgent where the policy looks at it.")
    user: Annotated[str, Field(max_length=512)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None


class ImageBody(CreateBody):
    """POST /v1/images/generations."""

    n: Int | None = None
    output_format: Literal["png", "webp", "jpeg"] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    stream: bool | None = None
    partial_images: Int | None = Field(None, description="0 to 3 previews in a stream.")
    background: Literal["auto", "opaque"] | None = Field(None, description="Images are always opaque.")
    quality: Ignored = None
    style: Ignored = None
    moderation: Ignored = None
    complexity: Ignored = None
    output_compression: Int | None = Field(None, description="Accepted for compatibility; changes nothing here.")


class VideoBody(CreateBody):
    """POST /v1/videos."""

    seconds: Annotated[str, Field(max_length=20)] | Int | Float | None = Field(
        None, description="Length; rounded to what the model can do."
    )
    num_frames: Int | None = Field(None, description="Exact number of frames, in place of seconds.")
    fps: Int | None = None
    quality: Ignored = None


UNSUPPORTED = {
    "image": "this server generates from text only",
    "images": "this server generates from text only",
    "mask": "this server generates from text only",
    "input_fidelity": "this server generates from text only",
    "input_reference": "this server generates from text only",
    "image_url": "this server generates from text only",
    "frame_count": "images have one frame; make a clip with /v1/videos",
    "frame_duration_ms": "images have one frame; make a clip with /v1/videos",
    "svg": "output formats are png, webp and jpeg",
    "remix_id": "videos are made from text only",
    "remixed_from_video_id": "videos are made from text only",
}
"""Fields of the OpenAI API that would change the result, and why we don't take them."""
