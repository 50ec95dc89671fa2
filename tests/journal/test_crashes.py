"""A writer killed at every edge of a commit: what it acknowledged is there, once, and the log has no gaps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from genserve.journal import open_reader, open_storage
from genserve.journal.verify import verify
from tests.journal.crash_child import APPENDERS
from tests.journal.helpers import positions, running, steps

ROOT = Path(__file__).parents[2]
EDGES = ("before_insert", "before_commit", "after_commit")
Acknowledged = dict[tuple[str, int], int]


def child(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.journal.crash_child", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def killed_at(url: str, edge: str, countdown: int) -> Acknowledged:
    """Run a writer until it dies at the edge; what it had acknowledged by then."""
    process = child(url, edge, str(countdown))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    lines = [line.split() for line in output.splitlines()]
    return {(name, int(seq)): int(position) for name, seq, position in lines}


def stored(url: str) -> Acknowledged:
    """Every unit in the log, and where; the log itself has to be sound."""
    reader = open_reader(url)
    try:
        assert verify(reader).is_sound
        rows = reader.read_rows(0, 100_000)
        assert [row.position for row in rows] == list(range(1, len(rows) + 1))
        return {(row.producer_id, row.producer_seq or 0): row.position for row in rows if row.producer_id}
    finally:
        reader.close()


def lost(url: str, acknowledged: Acknowledged) -> list[tuple[str, int]]:
    found = stored(url)
    return [unit for unit, position in acknowledged.items() if found.get(unit) != position]


@pytest.mark.parametrize("countdown", [1, 2, 9])
@pytest.mark.parametrize("edge", EDGES)
async def test_nothing_acknowledged_is_lost(sql_url: str, edge: str, countdown: int) -> None:
    acknowledged = killed_at(sql_url, edge, countdown)
    assert lost(sql_url, acknowledged) == []
    assert len(acknowledged) == APPENDERS * max(0, countdown - 2)


async def test_unacknowledged_units_sent_again_are_stored_exactly_once(sql_url: str) -> None:
    acknowledged = killed_at(sql_url, "after_commit", 5)
    before = stored(sql_url)
    async with running(open_storage(sql_url), holder="child") as journal:
        for number in range(APPENDERS):
            for seq in range(6):
                name = f"actor-{number}"
                receipt = await journal.append([steps(f"request/{name}", at=seq, seq=seq, producer=name)])
                assert receipt.first == before.get((name, seq), receipt.first)
                assert receipt.is_duplicate == ((name, seq) in before)
    after = stored(sql_url)
    assert len(acknowledged) < len(before) < len(after) == APPENDERS * 6


async def test_a_writer_that_acknowledges_before_it_commits_is_caught(sqlite_url: str) -> None:
    acknowledged = killed_at(sqlite_url, "acknowledged_early", 5)
    assert lost(sqlite_url, acknowledged) != []


async def test_a_writer_that_slept_through_its_lease_wakes_up_fenced(sql_url: str) -> None:
    zombie = child(sql_url, "obey")
    assert zombie.stdin is not None
    assert zombie.stdout is not None
    assert zombie.stdout.readline() == "epoch 1\n"
    print(0, file=zombie.stdin, flush=True)
    assert zombie.stdout.readline() == "stored 1\n"
    os.kill(zombie.pid, signal.SIGSTOP)
    async with running(open_storage(sql_url), holder="successor") as journal:
        assert journal.epoch == 2
        await journal.append([steps(at=1)])
        os.kill(zombie.pid, signal.SIGCONT)
        for _ in range(2):
            print(2, file=zombie.stdin, flush=True)
            assert zombie.stdout.readline() == "error fenced\n"
        assert (await journal.append([steps(at=3)])).first == 3
        log = journal.reader.read(0)
    zombie.communicate(timeout=30)
    assert positions(log) == [1, 2, 3]
    assert [r.event.from_step for r in log] == [0, 1, 3]  # type: ignore[union-attr]
