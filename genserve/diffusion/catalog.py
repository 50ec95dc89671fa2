"""Which models are served and what each can do; not how they run (see model).

Free of torch: the HTTP ingress checks requests with it. A catalog is a TOML file of ``[[models]]`` tables; an
unknown key is an error, because a misspelt limit that is silently ignored is found by a client.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from genserve.diffusion.generation import Generation
from genserve.errors import CallerError

MAX_SEED = 2**63 - 1
_SIZE = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")


class TinyRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to build a small checkpoint with seeded random weights (see build).

    ``width`` is the denoiser's inner dimension, ``text_width`` that of the text encoders, ``vae_width`` the
    autoencoder's channels at full resolution.
    """

    architecture: Literal["sd3", "flux", "wan"]
    seed: int
    width: int
    layers: int
    heads: int
    text_width: int
    vae_width: int


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One served model: where its checkpoint is, what a request may ask of it, and what it gets by default.

    ``path`` is a folder in the diffusers format, relative to the models directory unless absolute. ``blocks`` names
    the Modular Diffusers blocks class; empty means the one that diffusers registers for the checkpoint's pipeline.
    ``size_multiple`` is the autoencoder's spatial stride times the denoiser's patch. ``frame_stride`` is the
    autoencoder's temporal stride: a video has ``k * frame_stride + 1`` frames. ``max_sequence_length`` is in tokens
    of the longest text encoder; 0 means the family's own default. ``vae_channels_last`` and ``compile`` make a model
    faster on GPUs (see tuning): the autoencoder's memory layout, and torch.compile of the denoiser's repeated blocks.
    """

    name: str
    family: str
    path: str
    media: Literal["image", "video"]
    description: str = ""
    blocks: str = ""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    vae_dtype: Literal["", "float32", "bfloat16", "float16"] = ""
    vae_channels_last: bool = False
    compile: Literal["none", "regional"] = "none"
    size_multiple: int = 16
    min_width: int
    max_width: int
    min_height: int
    max_height: int
    default_width: int
    default_height: int
    frame_stride: int = 4
    max_frames: int = 1
    default_frames: int = 1
    max_fps: int = 60
    default_fps: int = 0
    max_steps: int = 100
    default_steps: int
    max_guidance_scale: float = 30.0
    default_guidance_scale: float
    max_prompt_characters: int = 2000
    max_sequence_length: int = 0
    default_slo_ms: int
    recipe: TinyRecipe | None = None

    def __post_init__(self) -> None:
        """Refuse an entry whose own defaults it would refuse; msgspec turns it into an error with the place."""
        try:
            self.check_size(self.default_width, self.default_height)
            self.check_frames(self.default_frames)
            self.check_steps(self.default_steps)
            self.check_guidance_scale(self.default_guidance_scale)
            if self.media == "video":
                self.check_fps(self.default_fps)
        except CallerError as error:
            raise ValueError(f"the defaults of {self.name!r} break its own limits: {error.message}") from error

    def folder(self, models_dir: Path | str) -> Path:
        """Where the checkpoint is, given the models directory."""
        return Path(models_dir) / self.path

    def find_checkpoint(self, models_dir: Path | str) -> Path:
        """The folder, if a checkpoint is in it; raises CallerError ``checkpoint_not_found``."""
        folder = self.folder(models_dir)
        if not any((folder / index).is_file() for index in ("model_index.json", "modular_model_index.json")):
            message = f"no checkpoint of {self.name} in {folder}; small ones are made by `genserve models build`"
            raise CallerError("checkpoint_not_found", message, "model")
        return folder

    def generation(
        self,
        prompt: str,
        *,
        negative_prompt: str = "",
        width: int | None = None,
        height: int | None = None,
        frames: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
    ) -> Generation:
        """A checked generation, with this model's defaults where nothing is given; raises CallerError."""
        generation = Generation(
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=self.default_width if width is None else width,
            height=self.default_height if height is None else height,
            frames=self.default_frames if frames is None else frames,
            steps=self.default_steps if steps is None else steps,
            guidance_scale=self.default_guidance_scale if guidance_scale is None else guidance_scale,
            seed=seed,
        )
        self.check(generation)
        return generation

    def check(self, generation: Generation) -> None:
        """Refuse what this model cannot do, with a CallerError that says what to change."""
        self.check_prompt(generation.prompt)
        self.check_prompt(generation.negative_prompt, param="negative_prompt")
        self.check_size(generation.width, generation.height)
        self.check_frames(generation.frames)
        self.check_steps(generation.steps)
        self.check_guidance_scale(generation.guidance_scale)
        self.check_seed(generation.seed)

    def check_prompt(self, prompt: str, *, param: str = "prompt") -> None:
        """At most ``max_prompt_characters``; code ``prompt_too_long``."""
        if len(prompt) > self.max_prompt_characters:
            _refuse(
                "prompt_too_long",
                f"{param} has {len(prompt)} characters; {self.name} takes at most {self.max_prompt_characters}",
                param,
            )

    def check_size(self, width: int, height: int) -> None:
        """Sides in range and multiples of ``size_multiple``; code ``invalid_size``."""
        self._check_side("width", width, self.min_width, self.max_width)
        self._check_side("height", height, self.min_height, self.max_height)

    def check_frames(self, frames: int) -> None:
        """``k * frame_stride + 1`` up to ``max_frames``, and 1 for an image; code ``invalid_frames``."""
        if self.media == "image" and frames != 1:
            _refuse("invalid_frames", f"{self.name} makes images: frames has to be 1, not {frames}", "num_frames")
        if not 1 <= frames <= self.max_frames or frames % self.frame_stride != 1 % self.frame_stride:
            nearest = self.nearest_frames(frames)
            _refuse(
                "invalid_frames",
                f"{self.name} cannot make {frames} frames: use a multiple of {self.frame_stride} plus 1, "
                f"up to {self.max_frames}, for example {nearest}",
                "num_frames",
            )

    def check_steps(self, steps: int) -> None:
        """1 to ``max_steps``; code ``invalid_steps``."""
        if not 1 <= steps <= self.max_steps:
            message = f"{self.name} takes 1 to {self.max_steps} steps, not {steps}"
            _refuse("invalid_steps", message, "num_inference_steps")

    def check_guidance_scale(self, guidance_scale: float) -> None:
        """0 to ``max_guidance_scale``, and a number; code ``invalid_guidance_scale``."""
        if not 0.0 <= guidance_scale <= self.max_guidance_scale:
            message = f"{self.name} takes a guidance scale of 0 to {self.max_guidance_scale}, not {guidance_scale}"
            _refuse("invalid_guidance_scale", message, "guidance_scale")

    def check_seed(self, seed: int) -> None:
        """0 to 2**63 - 1; code ``invalid_seed``."""
        if not 0 <= seed <= MAX_SEED:
            _refuse("invalid_seed", f"a seed is 0 to {MAX_SEED}, not {seed}", "seed")

    def check_fps(self, fps: int) -> None:
        """1 to ``max_fps``; code ``invalid_fps``."""
        if not 1 <= fps <= self.max_fps:
            _refuse("invalid_fps", f"{self.name} takes 1 to {self.max_fps} frames per second, not {fps}", "fps")

    def nearest_frames(self, frames: float) -> int:
        """The frame count that this model can make nearest to the given one, for instance seconds times fps."""
        largest = (self.max_frames - 1) // self.frame_stride
        strides = min(max(round((frames - 1) / self.frame_stride), 0), largest)
        return strides * self.frame_stride + 1

    def _check_side(self, side: str, value: int, smallest: int, largest: int) -> None:
        if not smallest <= value <= largest or value % self.size_multiple:
            _refuse(
                "invalid_size",
                f"{side} {value} does not fit {self.name}: use a multiple of {self.size_multiple} "
                f"from {smallest} to {largest}",
                "size",
            )


class Catalog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The served models, in the order in which they are listed to clients."""

    models: tuple[ModelEntry, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.models):
            raise ValueError(f"model names have to differ: {', '.join(self.names)}")

    @classmethod
    def load(cls, path: Path | str | None = None) -> Catalog:
        """Read a catalog, the shipped one by default; raises CallerError ``invalid_catalog`` with the place."""
        place = "the shipped catalog" if path is None else str(path)
        try:
            return msgspec.toml.decode(_read(path), type=cls)
        except (OSError, msgspec.DecodeError, ValueError) as error:
            raise CallerError("invalid_catalog", f"{place}: {error}") from error

    @property
    def names(self) -> Sequence[str]:
        return tuple(entry.name for entry in self.models)

    def get(self, name: str) -> ModelEntry:
        """The entry of that name; raises CallerError ``model_not_found`` that lists the names there are."""
        for entry in self.models:
            if entry.name == name:
                return entry
        raise CallerError("model_not_found", f"no model {name!r}; there are: {', '.join(self.names)}", "model")


def parse_size(size: str) -> tuple[int, int]:
    """Width and height in pixels out of "WxH"; raises CallerError ``invalid_size``."""
    match = _SIZE.fullmatch(size)
    if match is None:
        raise CallerError(
            "invalid_size", f"a size is WIDTHxHEIGHT in pixels, for example 256x256, not {size!r}", "size"
        )
    return int(match[1]), int(match[2])


def _read(path: Path | str | None) -> bytes:
    if path is None:
        return resources.files("genserve.diffusion").joinpath("catalog.toml").read_bytes()
    return Path(path).read_bytes()


def _refuse(code: str, message: str, param: str) -> None:
    raise CallerError(code, message, param)
