from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest

from genserve.diffusion.catalog import Catalog, ModelEntry, parse_size
from genserve.errors import CallerError


def a_video_model(**changes: Any) -> ModelEntry:
    wanted: dict[str, Any] = {
        "name": "clip",
        "family": "wan",
        "path": "clip",
        "media": "video",
        "min_width": 32,
        "max_width": 256,
        "min_height": 32,
        "max_height": 128,
        "default_width": 64,
        "default_height": 64,
        "max_frames": 49,
        "default_frames": 17,
        "default_fps": 8,
        "default_steps": 10,
        "default_guidance_scale": 5.0,
        "max_prompt_characters": 20,
        "default_slo_ms": 1000,
    }
    return ModelEntry(**{**wanted, **changes})


def written(folder: Path, text: str) -> Path:
    path = folder / "catalog.toml"
    path.write_text(text)
    return path


def test_the_shipped_catalog_has_an_image_a_video_and_a_third_family() -> None:
    models = Catalog.load().models
    assert [(entry.family, entry.media) for entry in models] == [("sd3", "image"), ("wan", "video"), ("flux", "image")]


def test_importing_the_torch_free_modules_imports_no_torch() -> None:
    modules = "catalog, generation, artifacts, build"
    code = f"import sys; from genserve.diffusion import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_an_unknown_key_is_an_error_that_names_the_key_and_the_place(tmp_path: Path) -> None:
    text = '[[models]]\nname = "a"\nmax_widht = 3\n'
    with pytest.raises(CallerError, match=r"invalid_catalog.*catalog\.toml.*`max_widht`.*models\[0\]"):
        Catalog.load(written(tmp_path, text))


def test_broken_toml_and_a_missing_file_are_coded_errors(tmp_path: Path) -> None:
    for path in (written(tmp_path, "models = ["), tmp_path / "absent.toml"):
        with pytest.raises(CallerError, match="invalid_catalog"):
            Catalog.load(path)


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="names have to differ: clip, clip"):
        Catalog(models=(a_video_model(), a_video_model()))


def test_defaults_that_break_the_models_own_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="defaults of 'clip' break its own limits: width 40 does not fit clip"):
        a_video_model(default_width=40)


def test_an_entry_survives_the_wire() -> None:
    entry = a_video_model()
    assert msgspec.json.decode(msgspec.json.encode(entry), type=ModelEntry) == entry


def test_an_unknown_model_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(CallerError, match="no model 'x'; there are: clip") as refusal:
        Catalog(models=(a_video_model(),)).get("x")
    assert (refusal.value.code, refusal.value.http_status, refusal.value.param) == ("model_not_found", 404, "model")


def test_a_generation_takes_the_models_defaults_where_nothing_is_given() -> None:
    generation = a_video_model().generation("a fox", width=128)
    assert (generation.width, generation.height, generation.frames, generation.steps) == (128, 64, 17, 10)


@pytest.mark.parametrize(
    ("asked", "code", "param", "advice"),
    [
        ({"width": 72}, "invalid_size", "size", "multiple of 16 from 32 to 256"),
        ({"height": 256}, "invalid_size", "size", "multiple of 16 from 32 to 128"),
        ({"width": 0}, "invalid_size", "size", "multiple of 16"),
        ({"frames": 16}, "invalid_frames", "num_frames", "multiple of 4 plus 1, up to 49, for example 17"),
        ({"frames": 53}, "invalid_frames", "num_frames", "for example 49"),
        ({"frames": 0}, "invalid_frames", "num_frames", "for example 1"),
        ({"steps": 0}, "invalid_steps", "num_inference_steps", "1 to 100 steps"),
        ({"steps": 101}, "invalid_steps", "num_inference_steps", "1 to 100 steps"),
        ({"guidance_scale": -1.0}, "invalid_guidance_scale", "guidance_scale", "0 to 30.0"),
        ({"guidance_scale": float("nan")}, "invalid_guidance_scale", "guidance_scale", "0 to 30.0"),
        ({"seed": -1}, "invalid_seed", "seed", "0 to 9223372036854775807"),
        ({"prompt": "x" * 21}, "prompt_too_long", "prompt", "21 characters; clip takes at most 20"),
        ({"negative_prompt": "x" * 21}, "prompt_too_long", "negative_prompt", "at most 20"),
    ],
)
def test_what_a_model_cannot_do_is_refused_with_a_code_and_advice(
    asked: dict[str, Any], code: str, param: str, advice: str
) -> None:
    with pytest.raises(CallerError) as refusal:
        a_video_model().generation(**{"prompt": "a fox", **asked})
    assert (refusal.value.code, refusal.value.param, refusal.value.http_status) == (code, param, 400)
    assert advice in refusal.value.message


def test_an_image_model_makes_no_videos() -> None:
    with pytest.raises(CallerError, match=r"invalid_frames.*makes images"):
        a_video_model(media="image", max_frames=1, default_frames=1).check_frames(5)


def test_frames_per_second_are_checked_apart_because_they_change_no_pixels() -> None:
    with pytest.raises(CallerError, match=r"invalid_fps.*1 to 60"):
        a_video_model().check_fps(0)


def test_seconds_become_the_nearest_frame_count_that_the_model_can_make() -> None:
    entry = a_video_model()
    assert [entry.nearest_frames(frames) for frames in (0.0, 1, 8, 15.9, 16, 32, 900)] == [1, 1, 9, 17, 17, 33, 49]


def test_a_size_is_width_x_height() -> None:
    assert parse_size("256x128") == (256, 128)
    for size in ("256", "256X128", "x", "0x128", "-1x5", "1e3x5", "256x128 ", "9999999x1"):
        with pytest.raises(CallerError, match="invalid_size"):
            parse_size(size)


def test_the_example_in_the_shipped_catalogs_comments_is_an_entry(tmp_path: Path) -> None:
    shipped = resources.files("genserve.diffusion").joinpath("catalog.toml").read_text()
    example = "\n".join(line.removeprefix("#   ") for line in shipped.splitlines() if line.startswith("#   "))
    entry = Catalog.load(written(tmp_path, example)).get("wan2.1-1.3b")
    assert entry.folder("/elsewhere") == Path("/models/Wan2.1-T2V-1.3B-Diffusers")
