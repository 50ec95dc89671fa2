from __future__ import annotations

import io
import os
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from genserve.diffusion.artifacts import Frames, ImageFormat, encode_image, encode_video, spritesheet, thumbnail


def a_clip(frames: int = 9, height: int = 48, width: int = 64) -> Frames:
    """A bright square that moves to the right over a gradient."""
    clip = np.zeros((frames, height, width, 3), dtype=np.uint8)
    clip[..., 2] = np.linspace(0, 200, width).astype(np.uint8)
    for index in range(frames):
        clip[index, 8:24, 4 * index : 4 * index + 16] = 255
    return clip


def decoded(content: bytes) -> list[Frames]:
    with av.open(io.BytesIO(content), "r") as container:
        return [np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8) for frame in container.decode(video=0)]


def test_a_png_gives_the_pixels_back_exactly() -> None:
    clip = a_clip()
    image = Image.open(io.BytesIO(encode_image(clip, "png")))
    assert np.array_equal(np.asarray(image), clip[0])


@pytest.mark.parametrize("image_format", ["webp", "jpeg"])
def test_lossy_images_stay_close(image_format: ImageFormat) -> None:
    clip = a_clip()
    image = Image.open(io.BytesIO(encode_image(clip, image_format)))
    assert image.format == image_format.upper()
    assert np.abs(np.asarray(image.convert("RGB")).astype(int) - clip[0]).mean() < 6


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_a_video_has_as_many_frames_as_went_in_and_looks_like_them(frames: int) -> None:
    clip = a_clip(frames)
    back = decoded(encode_video(clip, 8))
    assert len(back) == frames
    assert max(np.abs(b.astype(int) - frame).mean() for b, frame in zip(back, clip, strict=True)) < 6


def test_a_video_says_its_rate_and_codec_and_puts_the_index_first() -> None:
    content = encode_video(a_clip(), 8)
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 8
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 64, 48)
    assert content.index(b"moov") < content.index(b"mdat")


def test_the_same_pixels_give_the_same_bytes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    for encode in (encode_image, thumbnail, spritesheet, lambda frames: encode_video(frames, 8)):
        assert encode(noise) == encode(noise.copy())


def test_what_lies_in_unused_memory_does_not_change_a_video() -> None:
    code = """
import sys, numpy as np
from genserve.diffusion.artifacts import encode_video
sys.stdout.buffer.write(encode_video(np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8), 8))
"""
    videos = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "MALLOC_PERTURB_": filling},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for filling in ("0", "1")
    ]
    assert videos[0] == videos[1]


def test_a_thumbnail_is_the_middle_frame_no_larger_than_asked() -> None:
    image = Image.open(io.BytesIO(thumbnail(a_clip(), side=32)))
    assert (image.format, image.size) == ("WEBP", (32, 24))


def test_a_spritesheet_lays_evenly_spread_frames_out_in_rows() -> None:
    image = Image.open(io.BytesIO(spritesheet(a_clip(9), count=5, side=64)))
    assert (image.format, image.size) == ("JPEG", (3 * 64, 2 * 48))
    last = np.asarray(image)[48:96, 64:128]
    assert np.abs(last.astype(int) - a_clip(9)[8]).mean() < 8


def test_a_single_frame_has_a_spritesheet_too() -> None:
    assert Image.open(io.BytesIO(spritesheet(a_clip(1)))).size == (64, 48)
