"""``genserve events``: the facts of one request, as the log has them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genserve.cli.options import DEFAULT_URL, ApiKey, AsJson, Url, print_json

if TYPE_CHECKING:
    from genserve.cli.client import ServerEvent

_ENVELOPE = ("type", "position", "version", "recorded_at")


def add_to(app: typer.Typer) -> None:
    app.command()(events)


def events(
    request_id: Annotated[str, typer.Argument(metavar="ID")],
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the request ends.")] = False,
    after: Annotated[int, typer.Option(min=0, help="Only what is beyond this log position.")] = 0,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
) -> None:
    """Print the events of a request: log position, time, event, fields.

    Examples: genserve events vid_0193...; genserve events vid_0193... --follow --json
    """
    from genserve.cli.client import Client, request_path

    with Client(url, api_key) as client:
        last = client.get(request_path(request_id))["position"]
        if after >= last and not follow:
            return
        for event in client.follow(request_id, after=after):
            print_json(event.data) if as_json else typer.echo(_line(event))
            if event.position >= last and not follow:
                return


def _line(event: ServerEvent) -> str:
    time = datetime.fromtimestamp(event.data["recorded_at"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
    return f"{event.position:>8} {time} {event.name:<20} {_fields(event.data)}"


def _fields(data: dict[str, Any]) -> str:
    shown = {name: value for name, value in data.items() if name not in _ENVELOPE}
    if "request" in shown:
        shown = {name: shown["request"].get(name) for name in ("model", "steps", "deadline_us")}
    if "artifact" in shown:
        shown |= shown.pop("artifact")
    return " ".join(f"{name}={value}" for name, value in shown.items())
