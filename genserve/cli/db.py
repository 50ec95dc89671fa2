"""``genserve db``: the log's schema; not its contents."""

from __future__ import annotations

from typing import Annotated

import typer

Database = Annotated[str, typer.Option(help="SQLAlchemy URL; by default the one of the settings.")]


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(help="Create and check the database schema.", no_args_is_help=True)
    group.command()(upgrade)
    group.command()(current)
    app.add_typer(group, name="db")


def upgrade(database: Database = "") -> None:
    """Bring the schema to what this version needs; safe to repeat."""
    from genserve.journal import upgrade as schema
    from genserve.journal.urls import shown

    url = _url(database)
    print(f"{shown(url)} is at revision {schema.upgrade(url)}")


def current(database: Database = "") -> None:
    """Say which revision the database is at, and which this version needs."""
    from genserve.journal import upgrade as schema
    from genserve.journal.urls import shown

    url = _url(database)
    print(f"{shown(url)} is at revision {schema.current(url) or 'none'}; this version needs {schema.latest()}")


def _url(database: str) -> str:
    from genserve.config import load_settings

    if database:
        return database
    settings = load_settings()
    if not settings.database_url:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    return settings.database
