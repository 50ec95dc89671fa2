"""``genserve serve``: run a cell until it is told to stop; the cell itself is reached by import string."""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from genserve.config import Settings

COMPOSITION_ROOT = "actors.app"


def add_to(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    config: Annotated[Path | None, typer.Option(help="Settings file (TOML); GENSERVE_ variables win over it.")] = None,
    build: Annotated[bool, typer.Option(help="First make the catalog's small checkpoints, if absent.")] = False,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Requests that were under way when the last server stopped, however it stopped, go on from the log.
    """
    from genserve.config import load_settings

    settings = load_settings(config)
    if build:
        build_small_models(settings)
    root = import_module(COMPOSITION_ROOT)
    asyncio.run(root.serve_forever(settings, say))


def build_small_models(settings: Settings) -> None:
    """The catalog's small checkpoints, where they are absent."""
    from genserve.diffusion.build import build_models
    from genserve.diffusion.catalog import Catalog

    build_models(settings.models, Catalog.load(settings.catalog), lambda line: say(f"models: {line}"))


def say(line: str) -> None:
    """What is going on, for the person at the terminal."""
    print(f"genserve: {line}", file=sys.stderr, flush=True)
