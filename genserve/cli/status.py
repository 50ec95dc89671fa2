"""``genserve status`` and ``genserve cancel``: how the server and its requests stand."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Annotated, Any

import typer

from genserve.cli.exits import ExitCode
from genserve.cli.options import DEFAULT_URL, ApiKey, AsJson, Url, print_json

Limit = Annotated[int, typer.Option(min=1, max=100, help="How many of the latest requests to list.")]

WIDE = 200


def add_to(app: typer.Typer) -> None:
    app.command()(status)
    app.command()(cancel)


def status(
    request_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="One request; all by default.")] = None,
    *,
    limit: Limit = 20,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
) -> None:
    """Show one request, or the server's health and the latest requests.

    Examples: genserve status; genserve status vid_0193... --json
    """
    from genserve.cli.client import Client, request_path

    with Client(url, api_key) as client:
        if request_id is not None:
            found = client.get(request_path(request_id))
            print_json(found) if as_json else _print_request(found)
            return
        health = client.health()
        is_ready = health.get("status") == "ok"
        rows = client.get("/v1/requests", limit=limit)["data"] if is_ready else []
    if as_json:
        print_json({"health": health, "requests": rows})
    else:
        _print_overview(url, health, rows)
    if not is_ready:
        sys.exit(ExitCode.UNAVAILABLE)


def cancel(
    request_id: Annotated[str, typer.Argument(metavar="ID")],
    *,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
) -> None:
    """Stop a request at its next step boundary.

    Example: genserve cancel vid_0193...
    """
    from genserve.cli.client import Client, request_path

    with Client(url, api_key) as client:
        reply = client.delete(request_path(request_id))
    if as_json:
        print_json(reply)
    elif reply["cancelled"]:
        typer.echo(f"{request_id} stops at its next step boundary")
    else:
        typer.echo(f"{request_id} had ended already: {reply['status']}")


def _print_overview(url: str, health: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    typer.echo(f"{url}: {health['status']}, scheduler {health['scheduler']}, {health['workers']} workers")
    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("request", "model", "size", "status", "steps", "deadline", "forecast", "pauses"):
        table.add_column(heading, no_wrap=True, min_width=36 if heading == "request" else None)
    for row in rows:
        table.add_row(
            row["id"],
            row["model"],
            row["size"],
            row["status"],
            f"{row['step']}/{row['steps']}",
            _time(row["deadline"]),
            _outlook(row),
            str(row["pauses"]),
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)  # whoever reads a pipe wants whole ids
    console.print(table)


def _print_request(row: dict[str, Any]) -> None:
    shape = row["size"] if row["media"] == "image" else f"{row['size']}, {row['num_frames']} frames"
    lines = {
        "request": row["id"],
        "model": f"{row['model']} ({row['media']}, {shape}, seed {row['seed']})",
        "prompt": row["prompt"],
        "status": f"{row['status']}, {row['step']} of {row['steps']} steps, paused {row['pauses']} times",
        "created": _time(row["created_at"]),
        "deadline": _time(row["deadline"]),
        "forecast": _outlook(row),
        "error": f"{row['error']['message']} [{row['error']['code']}]" if row["error"] else "",
        "url": row["url"],
    }
    for name, value in lines.items():
        if value:
            typer.echo(f"{name:<9} {value}")


def _outlook(row: dict[str, Any]) -> str:
    """Met or missed once it has ended, the planner's forecast before."""
    if row["deadline_met"] is not None:
        return "met" if row["deadline_met"] else "missed"
    forecast = row["forecast"]
    if forecast is None:
        return ""
    return f"{'on time' if forecast['will_meet'] else 'late'}, {forecast['remaining_ms'] / 1000:.1f} s left"


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")
