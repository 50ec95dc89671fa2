"""What a request's frames become: image, or video with thumbnail and spritesheet; not where they are stored."""

from __future__ import annotations

from typing import Any, cast

from msgspec import Struct

from genserve.diffusion.artifacts import (
    MEDIA_TYPES,
    SPRITESHEET_FORMAT,
    THUMBNAIL_FORMAT,
    ImageFormat,
    encode_image,
    encode_video,
    spritesheet,
    thumbnail,
)
from genserve.domain.request import Media, RequestSpec


class Result(Struct, frozen=True):
    """One file of a result, not yet stored."""

    kind: str
    content: bytes
    media_type: str


def encode_results(spec: RequestSpec, frames: Any) -> list[Result]:
    """All files of a finished request; ``frames`` is uint8 (frames, height, width, 3)."""
    if spec.media is Media.IMAGE:
        content, media_type = encode_preview(spec, frames)
        return [Result("image", content, media_type)]
    return [
        Result("video", encode_video(frames, spec.fps), MEDIA_TYPES["mp4"]),
        Result("thumbnail", thumbnail(frames), MEDIA_TYPES[THUMBNAIL_FORMAT]),
        Result("spritesheet", spritesheet(frames), MEDIA_TYPES[SPRITESHEET_FORMAT]),
    ]


def encode_preview(spec: RequestSpec, frames: Any) -> tuple[bytes, str]:
    """One image in the format that the client asked for, and its media type."""
    image_format = cast(ImageFormat, spec.output_format)
    return encode_image(frames, image_format), MEDIA_TYPES[image_format]
