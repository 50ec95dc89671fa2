"""From a checked body to what is recorded: models, limits and defaults; not how a body is read (see bodies)."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

from msgspec.structs import replace

from genserve.api.context import Api
from genserve.api.deadlines import deadline_us
from genserve.api.schemas import CreateBody, ImageBody, VideoBody
from genserve.diffusion.catalog import ModelEntry, parse_size
from genserve.diffusion.generation import Generation
from genserve.domain.ids import new_id
from genserve.domain.request import Media, RequestSpec, Shape
from genserve.errors import CallerError

MAX_PRIORITY = 100
MAX_PARTIAL_IMAGES = 3


@dataclass(frozen=True)
class Caller:
    """Who asks, and the trace that the request continues."""

    tenant: str = ""
    traceparent: str = ""


def image_specs(api: Api, body: ImageBody, caller: Caller) -> tuple[RequestSpec, ...]:
    """The n requests of one call; raises CallerError that says what to change."""
    entry = _entry(api, body, Media.IMAGE)
    count = _in_range("n", body.n, default=1, smallest=1, largest=min(10, api.settings.limits.max_images_per_call))
    previews = _in_range("partial_images", body.partial_images, default=0, smallest=0, largest=MAX_PARTIAL_IMAGES)
    if body.stream and body.response_format == "url":
        message = "a stream carries b64_json only; drop response_format or stream"
        raise CallerError("conflicting_parameters", message, "response_format")
    now_us = api.clock()
    spec = _spec(api, body, caller, entry=entry, generation=_generation(api, body, entry, frames=1), now_us=now_us)
    entry.check_seed(spec.seed + count - 1)
    spec = replace(
        spec,
        output_format=body.output_format or "png",
        partial_images=previews if body.stream else 0,
        group_id=new_id("grp", now_us) if count > 1 else "",
    )
    # ids sort by the millisecond: a step apart, they keep the order of the seeds
    ids = [new_id("img", now_us + index * 1000) for index in range(count)]
    return tuple(replace(spec, request_id=id_, seed=spec.seed + index) for index, id_ in enumerate(ids))


def video_spec(api: Api, body: VideoBody, caller: Caller) -> RequestSpec:
    """The one request of a video call; raises CallerError that says what to change."""
    entry = _entry(api, body, Media.VIDEO)
    fps = entry.default_fps if body.fps is None else body.fps
    entry.check_fps(fps)
    generation = _generation(api, body, entry, frames=_frames(body, entry, fps))
    now_us = api.clock()
    spec = _spec(api, body, caller, entry=entry, generation=generation, now_us=now_us)
    return replace(spec, request_id=new_id("vid", now_us), output_format="mp4", fps=fps)


def _spec(
    api: Api, body: CreateBody, caller: Caller, *, entry: ModelEntry, generation: Generation, now_us: int
) -> RequestSpec:
    """What images and videos have in common; the id is still to be given."""
    due_us = deadline_us(
        body.slo_ms,
        body.deadline,
        default_slo_ms=entry.default_slo_ms,
        max_slo_s=api.settings.limits.max_slo_s,
        now_us=now_us,
    )
    return RequestSpec(
        request_id="",
        model=entry.name,
        media=Media(entry.media),
        shape=Shape(generation.width, generation.height, generation.frames),
        steps=generation.steps,
        arrival_us=now_us,
        deadline_us=due_us,
        prompt=generation.prompt,
        negative_prompt=generation.negative_prompt,
        guidance_scale=generation.guidance_scale,
        seed=generation.seed,
        priority=_in_range("priority", body.priority, default=0, smallest=-MAX_PRIORITY, largest=MAX_PRIORITY),
        tenant=caller.tenant,
        user=_plain("user", body.safety_identifier or body.user or ""),
        traceparent=caller.traceparent,
    )


def _entry(api: Api, body: CreateBody, media: Media) -> ModelEntry:
    able = [entry for entry in api.catalog.models if entry.media == media]
    if body.model is None:
        if not able:
            raise CallerError("model_not_found", f"no {media} model is served here", "model")
        return able[0]
    entry = api.catalog.get(body.model)
    if entry.media != media:
        names = ", ".join(model.name for model in able) or "none"
        message = f"{entry.name} makes {entry.media}s; models that make {media}s: {names}"
        raise CallerError("wrong_media", message, "model")
    return entry


def _generation(api: Api, body: CreateBody, entry: ModelEntry, *, frames: int) -> Generation:
    limits = api.settings.limits
    for name, text in (("prompt", body.prompt), ("negative_prompt", body.negative_prompt or "")):
        if len(_plain(name, text)) > limits.max_prompt_chars:
            message = f"{name} has {len(text)} characters; this server takes at most {limits.max_prompt_chars}"
            raise CallerError("prompt_too_long", message, name)
    if not body.prompt.strip():
        raise CallerError("empty_prompt", "the prompt is empty; describe what to generate", "prompt")
    if body.num_inference_steps is not None and body.num_inference_steps > limits.max_steps:
        message = f"this server takes at most {limits.max_steps} steps, not {body.num_inference_steps}"
        raise CallerError("invalid_steps", message, "num_inference_steps")
    width, height = _size(body, entry)
    return entry.generation(
        body.prompt,
        negative_prompt=body.negative_prompt or "",
        width=width,
        height=height,
        frames=frames,
        steps=body.num_inference_steps,
        guidance_scale=body.guidance_scale,
        seed=secrets.randbits(32) if body.seed is None else body.seed,
    )


def _size(body: CreateBody, entry: ModelEntry) -> tuple[int, int]:
    if body.width is None and body.height is None:
        if body.size is None or body.size == "auto":
            return entry.default_width, entry.default_height
        return parse_size(body.size)
    if body.size is not None:
        raise CallerError("conflicting_parameters", "give size or width and height, not both", "size")
    if body.width is None or body.height is None:
        missing = "width" if body.width is None else "height"
        raise CallerError("missing_field", f"width and height go together; add {missing}", missing)
    return body.width, body.height


def _frames(body: VideoBody, entry: ModelEntry, fps: int) -> int:
    """``num_frames`` as it is; ``seconds`` to the nearest count that the family can do (a clip has a first frame)."""
    if body.seconds is None:
        return entry.default_frames if body.num_frames is None else body.num_frames
    if body.num_frames is not None:
        raise CallerError("conflicting_parameters", "give seconds or num_frames, not both", "num_frames")
    try:
        seconds = float(body.seconds)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        message = f"seconds is a number above 0, such as '2', not {body.seconds!r}"
        raise CallerError("invalid_seconds", message, "seconds")
    frames = seconds * fps + 1
    if frames > entry.max_frames + entry.frame_stride / 2:
        longest = (entry.max_frames - 1) / fps
        message = (
            f"{entry.name} makes at most {entry.max_frames} frames, {longest:.4g} seconds at {fps} frames per second; "
            f"ask for fewer seconds than {seconds:.6g} or a lower fps"
        )
        raise CallerError("invalid_seconds", message, "seconds")
    return entry.nearest_frames(frames)


def _plain(name: str, text: str) -> str:
    if "\x00" in text:
        raise CallerError("invalid_value", f"{name} contains a NUL character; remove it", name)
    return text


def _in_range(name: str, value: int | None, *, default: int, smallest: int, largest: int) -> int:
    if value is None:
        return default
    if not smallest <= value <= largest:
        raise CallerError(f"invalid_{name}", f"{name} is {smallest} to {largest}, not {value}", name)
    return value
