"""How busy the workers of a live comparison were, and their bubbles, out of the logs; not what caused them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console

from genserve.audit.idleness import idleness_of
from genserve.audit.timeline import timeline_of
from genserve.cli.logs import read_history


def idleness_of_logs(logs: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Each log's workers together: shares of their time, and the median bubble."""
    return [{**log, **_idleness(log["database"])} for log in logs]


def _idleness(database: str) -> dict[str, Any]:
    timeline = timeline_of(read_history(database))
    gpus = idleness_of(timeline)
    bubbles = [bubble for gpu in gpus for bubble in gpu.bubbles]
    whole_us = max(1, timeline.to_us - timeline.from_us) * max(1, len(gpus))
    return {
        "busy": sum(gpu.busy_us for gpu in gpus) / whole_us,
        "idle_while_waiting": sum(bubbles) / whole_us,
        "bubbles": len(bubbles),
        "bubble_ms": median(bubbles or [0]) / 1000,
    }


def show_idleness(rows: Sequence[Mapping[str, Any]]) -> None:
    console = Console(width=140)
    for row in rows:
        console.print(
            f"{row['planner']}-{row['repeat']}: workers busy {row['busy']:.1%}, idle although somebody waited "
            f"{row['idle_while_waiting']:.2%} ({row['bubbles']} bubbles, median {row['bubble_ms']:.1f} ms)",
            highlight=False,
        )
