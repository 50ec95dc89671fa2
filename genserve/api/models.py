"""Routes of models: what is served and what each can do, out of the catalog."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from genserve.api.auth import AUTHENTICATED
from genserve.api.context import Api, ApiContext
from genserve.diffusion.catalog import ModelEntry

router = APIRouter(tags=["models"])


@router.get("/v1/models", dependencies=AUTHENTICATED)
async def list_models(api: ApiContext) -> Response:
    """The served models, with their limits and defaults beside OpenAI's fields."""
    return JSONResponse({"object": "list", "data": [_view(api, entry) for entry in api.catalog.models]})


@router.get("/v1/models/{name:path}", dependencies=AUTHENTICATED)
async def retrieve_model(name: str, api: ApiContext) -> Response:
    return JSONResponse(_view(api, api.catalog.get(name[:200])))


def _view(api: Api, entry: ModelEntry) -> dict[str, Any]:
    return {
        "id": entry.name,
        "object": "model",
        "created": api.started_us // 1_000_000,
        "owned_by": "genserve",
        "family": entry.family,
        "media": entry.media,
        "description": entry.description,
        "limits": {
            "size_multiple": entry.size_multiple,
            "width": [entry.min_width, entry.max_width],
            "height": [entry.min_height, entry.max_height],
            "num_frames": [1, entry.max_frames],
            "frame_stride": entry.frame_stride,
            "num_inference_steps": [1, min(entry.max_steps, api.settings.limits.max_steps)],
            "prompt_characters": min(entry.max_prompt_characters, api.settings.limits.max_prompt_chars),
        },
        "defaults": {
            "size": f"{entry.default_width}x{entry.default_height}",
            "num_frames": entry.default_frames,
            "fps": entry.default_fps or None,
            "num_inference_steps": entry.default_steps,
            "guidance_scale": entry.default_guidance_scale,
            "slo_ms": entry.default_slo_ms,
        },
    }
