"""A writer in a process of its own that is killed, or stopped, at a named edge; run by test_crashes.

Arguments: url, edge, which commit. It prints "<producer> <seq> <position>" for everything that was acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from sqlalchemy import Connection

from genserve.journal import Journal, Receipt
from genserve.journal.contract import Group, Upkeep
from genserve.journal.sql import SqlStorage
from genserve.journal.urls import parse_url
from tests.journal.helpers import steps, submitted

APPENDERS = 8


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Mortal(SqlStorage):
    """Dies at the n-th time it comes to an edge."""

    def __init__(self, url: str, edge: str, countdown: int) -> None:
        super().__init__(parse_url(url))
        self.edge = edge
        self.countdown = countdown

    def reach(self, edge: str) -> None:
        if edge == self.edge:
            self.countdown -= 1
            if self.countdown == 0:
                kill()

    def commit(self, group: Group) -> Upkeep:
        self.reach("before_insert")
        upkeep = super().commit(group)
        self.reach("after_commit")
        return upkeep

    def _commit(self, connection: Connection, group: Group) -> None:
        super()._commit(connection, group)
        self.reach("before_commit")


class Liar(Mortal):
    """Acknowledges a group when the next one comes, and dies with the last one in its hands."""

    held: Group | None = None

    def commit(self, group: Group) -> Upkeep:
        held, self.held = self.held, group
        if held is not None:
            super().commit(held)
        return Upkeep.NONE


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


async def append_for_ever(journal: Journal, number: int) -> None:
    name = f"actor-{number}"
    await journal.append([submitted(name)])
    for seq in range(10_000):
        receipt: Receipt = await journal.append([steps(f"request/{name}", at=seq, seq=seq, producer=name)])
        say(f"{name} {seq} {receipt.first}")


async def crash(url: str, edge: str, countdown: int) -> None:
    kind: Any = Liar if edge == "acknowledged_early" else Mortal
    storage = kind(url, "before_insert" if kind is Liar else edge, countdown)
    journal = Journal(storage)
    await journal.take_over("child")
    await asyncio.gather(*(append_for_ever(journal, number) for number in range(APPENDERS)))


async def obey(url: str) -> None:
    """Append once for every line of standard input, and say what came of it."""
    journal = Journal(SqlStorage(parse_url(url)))
    say(f"epoch {await journal.take_over('child', lease_s=0)}")
    for line in iter(sys.stdin.readline, ""):
        try:
            receipt = await journal.append([steps(at=int(line))])
            say(f"stored {receipt.first}")
        except Exception as error:
            say(f"error {getattr(error, 'code', error)}")


if __name__ == "__main__":
    if sys.argv[2] == "obey":
        asyncio.run(obey(sys.argv[1]))
    else:
        asyncio.run(crash(sys.argv[1], sys.argv[2], int(sys.argv[3])))
