"""Logs of a live comparison beside their simulation: with the profiled costs, and with costs out of another log.

The profile is measured on a machine that does nothing else. A log's costs have in them what serving adds: contention
of all processes on shared cores, HTTP, dispatching, storing. They are taken from another log than the simulated one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from genserve.cli.logs import read_history
from genserve.profile.from_log import costs_of_log
from genserve.scheduling.costs import load_costs
from genserve.simulate.reality import compare_outcomes, read_recording, simulate_recording
from genserve.simulate.score import percentile


def compare_logs(logs: Sequence[dict[str, str]], costs: Path, latencies_s: Mapping[str, float]) -> list[dict[str, Any]]:
    """Each log by each kind of costs; a single log has no other one to take costs from.

    ``latencies_s`` are the client's, by request id: what they exceed the log's by is HTTP, in no simulation.
    """
    rows = []
    for log in logs:
        recording = read_recording(read_history(log["database"]))
        http_s = [
            latencies_s[o.request_id] - o.latency_us / 1e6 for o in recording.outcomes if o.request_id in latencies_s
        ]
        tables = {"profiled": load_costs(costs)}
        other = _other(logs, log)
        if other is not None:
            name = f"{other['planner']}-{other['repeat']}"
            tables[f"log of {name}"] = costs_of_log(read_history(other["database"]), name=name)
        for name, table in tables.items():
            groups = compare_outcomes(recording.outcomes, simulate_recording(recording, costs=table))
            http = {f"p{p}_s": percentile(http_s, p) for p in (50, 99)}
            rows.append({**log, "costs": name, "groups": groups, "http": http})
    return rows


def _other(logs: Sequence[dict[str, str]], log: dict[str, str]) -> dict[str, str] | None:
    """Another repeat of the same planner, else any other log."""
    others = [o for o in logs if o is not log]
    return next((o for o in others if o["planner"] == log["planner"]), others[0] if others else None)


def show_reality(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title="simulation against reality", box=None, pad_edge=False, title_justify="left")
    names = (
        "log",
        "costs",
        "requests",
        "on time %",
        "simulated",
        "error",
        "finish off |p50|",
        "|p90|",
        "image",
        "video",
    )
    for index, name in enumerate(names):
        table.add_column(name, justify="left" if index < 2 else "right")
    for row in rows:
        whole, off = row["groups"]["all"], row["groups"]["all"]["finish_error_abs"]
        cells = [f"{whole[k]:.1f}" for k in ("recorded_on_time", "simulated_on_time")]
        cells += [f"{whole['attainment_error']:+.1f}", *(f"{100 * off[k]:.0f}%" for k in ("p50", "p90"))]
        cells += [_error(row["groups"], media) for media in ("image", "video")]
        cells += [f"{row['http'][k]:.3f}" for k in ("p50_s", "p99_s")]
        table.add_row(f"{row['planner']}-{row['repeat']}", row["costs"], str(whole["requests"]), *cells)
    Console(width=140).print(table)


def _error(groups: Mapping[str, Any], media: str) -> str:
    return f"{groups[media]['attainment_error']:+.1f}" if media in groups else "-"
