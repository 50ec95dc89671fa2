"""A progress bar out of a request's events; not where events come from."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from genserve.cli.client import ServerEvent

_STATES = {
    "RequestSubmitted": "waiting",
    "RequestPaused": "paused",
    "AttemptFailed": "trying again",
    "CancelRequested": "stopping",
    "RequestCompleted": "completed",
    "RequestCancelled": "cancelled",
    "RequestFailed": "failed",
}


def show_progress(events: Iterable[ServerEvent], request_id: str, *, quiet: bool) -> None:
    """Draw on stderr until the events end; the bar counts denoising steps."""
    columns = (TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task("submitted", total=None)
        for event in events:
            if event.name == "RequestSubmitted":
                progress.update(task, total=event.data["request"]["steps"])
                progress.console.print(request_id, highlight=False)
            progress.update(task, description=_describe(event))
            if event.name in ("StepsFinished", "RequestPaused"):
                progress.update(task, completed=event.data.get("to_step", event.data.get("step")))


def _describe(event: ServerEvent) -> str | None:
    """None leaves the description as it is."""
    if event.name == "StageStarted":
        return f"{event.data['stage']} on {len(event.data['workers'])}"
    return _STATES.get(event.name)
