"""Requests for workers that are driven segment by segment."""

from __future__ import annotations

from typing import Any

from genserve.domain.request import Media, RequestSpec, Shape
from genserve.scheduling import protocol as p


def a_spec(request_id: str = "r1", **changes: Any) -> RequestSpec:
    """A small video."""
    fields: dict[str, Any] = {
        "model": "tiny-wan",
        "media": Media.VIDEO,
        "shape": Shape(64, 64, 5),
        "steps": 12,
        "arrival_us": 0,
        "deadline_us": 0,
        "prompt": "a red fox in the snow",
        "guidance_scale": 5.0,
        "seed": 1,
        "fps": 8,
    }
    return RequestSpec(request_id, **{**fields, **changes})


def a_member(spec: RequestSpec, home: str = "") -> p.Member:
    return p.Member(spec, 0, "ear", home)
