"""``genserve timeline``: what ran where and when, out of the log, for a trace viewer and as a picture."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from genserve.cli.logs import read_history

if TYPE_CHECKING:
    from genserve.audit.idleness import Idleness
    from genserve.audit.timeline import Timeline


def add_to(app: typer.Typer) -> None:
    app.command()(timeline)


def timeline(
    out: Annotated[Path, typer.Option(help="Where the files go: NAME.json and NAME.html.")] = Path("timeline"),
    *,
    database: Annotated[str, typer.Option(help="URL or SQLite file; by default that of the settings.")] = "",
    after: Annotated[int, typer.Option(min=0, help="Leave out the log up to this position.")] = 0,
) -> None:
    """Draw a log: a track per GPU, coloured by request, with decisions, queue depth and deadlines.

    Also tells how busy every GPU was, and its bubbles: how long it idled although somebody waited.
    Open the JSON in https://ui.perfetto.dev or chrome://tracing, the HTML in any browser.
    """
    from genserve.audit.idleness import idleness_of
    from genserve.audit.timeline import timeline_of
    from genserve.audit.timeline_picture import to_html
    from genserve.audit.timeline_trace import to_trace

    drawn = timeline_of(read_history(database, after=after))
    trace, picture = out.with_suffix(".json"), out.with_suffix(".html")
    trace.write_bytes(to_trace(drawn))
    picture.write_text(to_html(drawn))
    for gpu in idleness_of(drawn):
        typer.echo(_share(gpu, drawn))
    typer.echo(f"{len(drawn.slices)} slices, {len(drawn.decisions)} decisions: {trace} and {picture}")


def _share(gpu: Idleness, drawn: Timeline) -> str:
    span_us = max(1, drawn.to_us - drawn.from_us)
    text = f"{gpu.worker_id}: busy {gpu.busy_us / span_us:.1%}"
    if not gpu.bubbles:
        return text
    middle_ms = median(gpu.bubbles) / 1000
    return f"{text}, {len(gpu.bubbles)} bubbles of {middle_ms:.1f} ms (median), {sum(gpu.bubbles) / span_us:.2%} in all"
