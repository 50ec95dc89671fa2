"""Frames to files: PNG, WebP, JPEG and MP4; not where the files are stored.

Free of torch: request actors encode. Frames are uint8 arrays (frames, height, width, 3), RGB. The same pixels give
the same bytes, on one machine with one version of the libraries: nothing here writes a date, x264 runs on one thread
because the bits of its rate control depend on the number of threads, and without its macroblock tree, which reads
memory that it has not written (one video in a few hundred came out different).
"""

from __future__ import annotations

import io
import math
import tempfile
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.container import OutputContainer
from numpy.typing import NDArray
from PIL import Image

Frames = NDArray[np.uint8]
ImageFormat = Literal["png", "webp", "jpeg"]

MEDIA_TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg", "mp4": "video/mp4"}
THUMBNAIL_FORMAT: ImageFormat = "webp"
SPRITESHEET_FORMAT: ImageFormat = "jpeg"

_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"compress_level": 6},
    "webp": {"quality": 90, "method": 4},
    "jpeg": {"quality": 92},
}


def encode_image(frames: Frames, image_format: ImageFormat = "png") -> bytes:
    """The first frame as a file of that format."""
    return _save(Image.fromarray(frames[0]), image_format)


def encode_video(frames: Frames, fps: int) -> bytes:
    """All frames as MP4 (H.264, yuv420p); sides have to be even.

    The index comes first, so that a browser starts to play at once; moving it there makes FFmpeg reopen its output,
    which therefore is a real file.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with av.open(str(path), "w", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
            _mux(container, frames, fps=fps)
        return path.read_bytes()


def thumbnail(frames: Frames, *, side: int = 256) -> bytes:
    """The middle frame, at most ``side`` pixels wide and high, as WebP."""
    image = Image.fromarray(frames[len(frames) // 2])
    image.thumbnail((side, side))
    return _save(image, THUMBNAIL_FORMAT)


def spritesheet(frames: Frames, *, count: int = 16, side: int = 128) -> bytes:
    """Up to ``count`` evenly spread frames in a near-square grid, row by row, as JPEG."""
    chosen = frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)]
    tiles = [Image.fromarray(frame) for frame in chosen]
    for tile in tiles:
        tile.thumbnail((side, side))
    width, height = tiles[0].size
    columns = math.ceil(math.sqrt(len(tiles)))
    sheet = Image.new("RGB", (columns * width, math.ceil(len(tiles) / columns) * height))
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % columns * width, index // columns * height))
    return _save(sheet, SPRITESHEET_FORMAT)


def _mux(container: OutputContainer, frames: Frames, *, fps: int) -> None:
    stream = container.add_stream("libx264", rate=fps)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = "yuv420p"
    stream.options = {"crf": "20", "preset": "veryfast", "flags": "+bitexact", "x264-params": "mbtree=0"}
    stream.codec_context.thread_count = 1
    for frame in frames:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode())


def _save(image: Image.Image, image_format: ImageFormat) -> bytes:
    sink = io.BytesIO()
    image.save(sink, image_format, **_SAVE_OPTIONS[image_format])
    return sink.getvalue()
