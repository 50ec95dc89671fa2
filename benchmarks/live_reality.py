"""Logs of a live comparison beside their simulation: with the profiled costs, and with costs out of another log.

The profile is measured on a machine that does nothing else. A log's costs have in them what serving adds: contention
of all processes on shared cores, HTTP, dispatching, storing. They are taken from another log than the simulated one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from genserve.cli.simulate_log import read_history
from genserve.profile.from_log import costs_of_log
from genserve.scheduling.costs import load_costs
from genserve.simulate.reality import compare_outcomes, read_recording, simulate_recording


def compare_logs(logs: Sequence[dict[str, str]], costs: Path) -> list[dict[str, Any]]:
    """Each log by each kind of costs; a single log has no other one to take costs from."""
    rows = []
    for log in logs:
        recording = read_recording(read_history(log["database"]))
        tables = {"profiled": load_costs(costs)}
        other = _other(logs, log)
        if other is not None:
            name = f"{other['planner']}-{other['repeat']}"
            tables[f"log of {name}"] = costs_of_log(read_history(other["database"]), name=name)
        for name, table in tables.items():
            groups = compare_outcomes(recording.outcomes, simulate_recording(recording, costs=table))
            rows.append({"planner": log["planner"], "repeat": log["repeat"], "costs": name, "groups": groups})
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
        cells += [f"{row['groups'][m]['attainment_error']:+.1f}" for m in ("image", "video") if m in row["groups"]]
        table.add_row(f"{row['planner']}-{row['repeat']}", row["costs"], str(whole["requests"]), *cells)
    Console(width=140).print(table)
