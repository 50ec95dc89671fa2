"""Answers of a live comparison in numbers, and as a table beside the baseline; not how they were come by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.live_load import Answer
from genserve.simulate.score import percentile

Answers = Mapping[str, Mapping[float, Sequence[Answer]]]


def summarise(answers: Answers, *, against: str) -> dict[str, Any]:
    """By system and load: attainment and latency, overall and by class, and ratios to the system ``against``."""
    systems = {
        system: {str(load): _by_group(given) for load, given in by_load.items()} for system, by_load in answers.items()
    }
    base = systems[against]
    for of_system in systems.values():
        for load, groups in of_system.items():
            for group, numbers in groups.items():
                numbers["ratio"] = _ratios(numbers, base[load][group])
    return systems


def _by_group(answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[Answer]] = {"all": []}
    for answer in answers:
        for name in ("all", answer.arrival.kind.media, answer.arrival.kind.name):
            groups.setdefault(name, []).append(answer)
    return {name: _numbers(of) for name, of in sorted(groups.items())}


def _numbers(answers: Sequence[Answer]) -> dict[str, Any]:
    times = [a.latency_s for a in answers if a.latency_s is not None]
    return {
        "requests": len(answers),
        "answered": len(times),
        "attainment": sum(a.is_met for a in answers) / len(answers),
        "mean_s": sum(times) / max(1, len(times)),
        "p50_s": percentile(times, 50),
        "p99_s": percentile(times, 99),
        "max_lag_s": max(a.lag_s for a in answers),
        "errors": sorted({a.error for a in answers if a.error})[:3],
    }


def _ratios(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, float | None]:
    """Attainment as a multiple of theirs, latencies as shares of theirs; None where theirs is zero."""
    return {name: ours[name] / theirs[name] if theirs[name] else None for name in ("attainment", "mean_s", "p99_s")}


def show(result: Mapping[str, Any], *, against: str) -> None:
    """One table per load."""
    console = Console(width=140)
    alone = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in result["alone_s"].items())
    console.print(f"alone on the baseline: {alone}", highlight=False)
    for load in result["parameters"]["loads"]:
        console.print(_table(result["systems"], str(load), against))
    for log in result["logs"]:
        line = f"log of {log['planner']}, repeat {log['repeat']}: {log['database']}"
        console.print(line, highlight=False, soft_wrap=True)


def _table(systems: Mapping[str, Any], load: str, against: str) -> Table:
    table = Table(title=f"load {load}", box=None, pad_edge=False, title_justify="left")
    names = ("system", "class", "requests", "on time %", f"x {against}", "mean s", "x", "p99 s", "x")
    for index, name in enumerate(names):
        table.add_column(name, justify="left" if index < 2 else "right")
    for system, by_load in systems.items():
        for group, numbers in by_load[load].items():
            table.add_row(system, group, *_cells(numbers), style="bold" if group == "all" else None)
    return table


def _cells(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    ratio = {name: "-" if value is None else f"{value:.2f}" for name, value in numbers["ratio"].items()}
    return (
        str(numbers["requests"]),
        f"{100 * numbers['attainment']:.1f}",
        ratio["attainment"],
        f"{numbers['mean_s']:.2f}",
        ratio["mean_s"],
        f"{numbers['p99_s']:.2f}",
        ratio["p99_s"],
    )
