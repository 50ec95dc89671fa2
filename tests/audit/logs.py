"""Logs to audit: a simulated one, and one written through the real journal into SQLite."""

from __future__ import annotations

import sqlite3
from itertools import groupby
from pathlib import Path

from genserve.domain.events import Recorded
from genserve.journal import Journal, Unit, open_storage
from genserve.journal.upgrade import upgrade
from genserve.planners.registry import build_planner
from genserve.scheduling.digest import state_digest
from genserve.simulate.simulation import Outage, Scenario, simulate
from tests.builders import SECOND, VIDEO, a_request, some_costs

Log = list[Recorded]


def a_simulated_log(planner: str = "edf") -> Log:
    """Twelve requests on two GPUs, one of which is away for a while; one request is cancelled."""
    specs = [
        a_request(f"r{i:02}", arrival_us=i * SECOND // 4, deadline_us=SECOND * (20 - i), **shape)
        for i, shape in enumerate([{"shape": VIDEO}, {}, {}] * 4)
    ]
    scenario = Scenario(
        tuple(specs),
        costs=some_costs(),
        gpus=2,
        outages=(Outage("w1", 2 * SECOND, 5 * SECOND),),
        cancels=((3 * SECOND, "r04"),),
    )
    return list(simulate(build_planner(planner), scenario, digest=state_digest).log)


async def store(log: Log, path: Path) -> str:
    """The database URL, with the log's events at their positions and times."""
    url = f"sqlite:///{path}"
    upgrade(url)
    now_us = log[0].recorded_us
    journal = Journal(open_storage(url), clock_us=lambda: now_us)
    await journal.take_over("test")
    for time_us, batch in groupby(log, key=lambda r: r.recorded_us):
        now_us = time_us
        await journal.append([Unit(r.stream, (r.event,)) for r in batch])
    await journal.close()
    return url


def flip(path: Path, position: int) -> None:
    """Alter one byte of one event's payload behind the journal's back."""
    with sqlite3.connect(path) as connection:
        triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        (payload,) = connection.execute("SELECT payload FROM events WHERE position = ?", (position,)).fetchone()
        digit = next(i for i, c in enumerate(payload) if c.isdigit())
        changed = payload[:digit] + str((int(payload[digit]) + 1) % 10) + payload[digit + 1 :]
        connection.execute("UPDATE events SET payload = ? WHERE position = ?", (changed, position))
    connection.close()
