"""Puts the HTTP surface together; free of torch, diffusers and Ray, so that it starts fast."""

from __future__ import annotations

from fastapi import FastAPI

from genserve.api import images, models, operations, requests, videos
from genserve.api.context import Api, Clock
from genserve.api.envelope import CatchAll, install_error_handlers
from genserve.api.limits import BodyLimit, StreamSlots
from genserve.config import Settings
from genserve.diffusion.catalog import Catalog
from genserve.scheduling.gateway import Gateway

HEARTBEAT_S = 15.0


def create_app(
    gateway: Gateway, catalog: Catalog, settings: Settings, *, clock: Clock, heartbeat_s: float = HEARTBEAT_S
) -> FastAPI:
    """The app over a gateway; ``clock`` tells microseconds since the epoch.

    It keeps nothing of a request: any replica answers for any id, and one that dies takes nothing with it.
    """
    app = FastAPI(title="GenServe", description=__doc__, redirect_slashes=False)
    app.state.api = Api(
        gateway=gateway,
        catalog=catalog,
        settings=settings,
        clock=clock,
        heartbeat_s=heartbeat_s,
        started_us=clock(),
        streams=StreamSlots(settings.limits.max_event_streams),
    )
    install_error_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=settings.http.max_body_bytes)
    app.add_middleware(CatchAll)  # the one added last is the outermost
    for routes in (images, videos, requests, models, operations):
        app.include_router(routes.router)
    return app
