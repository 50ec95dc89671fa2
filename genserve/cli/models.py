"""``genserve models``: what is served; commands on checkpoints hang on the same group."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from genserve.cli.options import DEFAULT_URL, ApiKey, AsJson, Url, print_json
from genserve.errors import Unavailable

group = typer.Typer(no_args_is_help=True, help="List what is served; make the small checkpoints.")


def add_to(app: typer.Typer) -> None:
    app.add_typer(group, name="models")


@group.command("list")
def list_models(
    *,
    catalog: Annotated[Path | None, typer.Option(help="Read this catalog file, not the server.")] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
) -> None:
    """List the models of the server, or of a catalog; without either, the shipped catalog.

    Examples: genserve models list; genserve models list --catalog my-models.toml --json
    """
    models = _from_catalog(catalog) if catalog else _from_server(url, api_key)
    if as_json:
        print_json(models)
        return
    for model in models:
        defaults = model["defaults"]
        frames = f" x {defaults['num_frames']} frames" if model["media"] == "video" else ""
        typer.echo(
            f"{model['id']:<16} {model['media']:<6} {defaults['size']}{frames}, "
            f"{defaults['num_inference_steps']} steps, {model['description']}"
        )


@group.command("build")
def build_models(
    *,
    catalog: Annotated[Path | None, typer.Option(help="Catalog file; by default that of the settings.")] = None,
    models_dir: Annotated[
        Path | None, typer.Option(help="Where checkpoints go; by default as in the settings.")
    ] = None,
) -> None:
    """Make the catalog's small checkpoints with seeded random weights, where they are absent.

    Entries without a recipe are yours to put in place: a folder in the diffusers format.
    """
    from genserve.config import load_settings
    from genserve.diffusion.build import build_models as build
    from genserve.diffusion.catalog import Catalog

    settings = load_settings()
    build(models_dir or settings.models, Catalog.load(catalog or settings.catalog), typer.echo)


def _from_server(url: str, api_key: str) -> list[dict[str, Any]]:
    from genserve.cli.client import Client

    try:
        with Client(url, api_key) as client:
            return list(client.get("/v1/models")["data"])
    except Unavailable:
        typer.echo(f"no server at {url}; this is the shipped catalog", err=True)
        return _from_catalog(None)


def _from_catalog(path: Path | None) -> list[dict[str, Any]]:
    from genserve.diffusion.catalog import Catalog

    return [
        {
            "id": entry.name,
            "media": entry.media,
            "family": entry.family,
            "description": entry.description,
            "defaults": {
                "size": f"{entry.default_width}x{entry.default_height}",
                "num_frames": entry.default_frames,
                "num_inference_steps": entry.default_steps,
            },
        }
        for entry in Catalog.load(path).models
    ]
