"""``genserve simulate --from-log``: a recorded log beside its simulation; not a replay of its decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genserve.cli.logs import read_history
from genserve.cli.simulating import write_json


def simulate_log(database: str, planner: str, costs: Path | None, json_file: Path | None) -> None:
    """Simulate what the log says arrived, compare, and print one row per class."""
    from genserve.planners.registry import build_planner
    from genserve.scheduling.costs import load_costs
    from genserve.simulate.compare import parse_entrant
    from genserve.simulate.reality import compare_outcomes, read_recording, simulate_recording

    recording = read_recording(read_history(database))
    entrant = parse_entrant(planner) if planner else None
    chosen = build_planner(entrant.name, entrant.parameters) if entrant else None
    simulated = simulate_recording(recording, planner=chosen, costs=load_costs(costs))
    result = {
        "log": database,
        "planner": planner or recording.planner,
        "recorded_planner": recording.planner,
        "gpus": recording.gpus,
        "groups": compare_outcomes(recording.outcomes, simulated),
    }
    write_json(result, json_file)
    if str(json_file) != "-":
        print_agreement(result)


def print_agreement(result: dict[str, Any]) -> None:
    """Recorded beside simulated."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['recorded_planner']} as recorded, {result['planner']} simulated", box=None)
    columns = ("class", "requests", "on time %", "simulated", "mean s", "simulated", "finish off p50", "p5", "p95")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right")
    for name, row in result["groups"].items():
        off = row["finish_error"]
        cells = [f"{row[k]:.1f}" for k in ("recorded_on_time", "simulated_on_time")]
        cells += [f"{row[k]:.2f}" for k in ("recorded_mean_s", "simulated_mean_s")]
        cells += [f"{100 * off[k]:+.0f}%" for k in ("p50", "p5", "p95")]
        table.add_row(name, str(row["requests"]), *cells)
    Console().print(table)
