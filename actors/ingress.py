"""The ingress: the FastAPI app as a Ray Serve deployment; nothing of a request is kept here."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI
from ray import serve

from actors.framework.ray_runtime import RayRuntime
from actors.gateway import ClusterGateway
from actors.plant import configure_logging
from actors.scheduler import NAME
from genserve.api.app import create_app
from genserve.config import Settings
from genserve.diffusion.catalog import Catalog
from genserve.journal.open import open_reader


@serve.ingress()
class Ingress:
    """One replica. Any number of them may run: each reads the log with a cursor of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        settings = self._settings
        configure_logging(settings)
        gateway = ClusterGateway(RayRuntime(settings.cluster.name).find(NAME), open_reader(settings.database))
        return create_app(gateway, Catalog.load(settings.catalog), settings, clock=lambda: time.time_ns() // 1000)


def ingress_app(settings: Settings, *, replicas: int = 1) -> serve.Application:
    """The deployment, bound to its settings."""
    deployment: Any = serve.deployment(
        Ingress,
        name="Ingress",
        num_replicas=replicas,
        max_ongoing_requests=settings.limits.max_event_streams + settings.limits.max_queued,
        ray_actor_options={"num_cpus": 0},
    )
    application: serve.Application = deployment.bind(settings)
    return application
